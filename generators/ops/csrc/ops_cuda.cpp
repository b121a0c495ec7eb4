// torch binding of the CUDA kernels: torch.ops.probes_cuda.{upfirdn2d, bias_act, filtered_lrelu}.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "binding.h"
#include "launch.h"

namespace probes {

static void check(cudaError_t status, const char* op) {
  TORCH_CHECK(status == cudaSuccess, op, ": the kernel did not launch: ", cudaGetErrorString(status));
}

static Tensor upfirdn2d(const Tensor& x, const Tensor& taps, at::IntArrayRef up, at::IntArrayRef down,
                        at::IntArrayRef padding, at::IntArrayRef size) {
  const c10::cuda::CUDAGuard guard(x.device());
  const Upfirdn2dParams p = upfirdn2d_params(x, taps, up, down, padding, size);
  Tensor y = empty_output(x, p);
  check(probes_upfirdn2d(dtype_code(x), x.const_data_ptr(), taps.const_data_ptr(), y.mutable_data_ptr(), &p,
                         c10::cuda::getCurrentCUDAStream()),
        "upfirdn2d");
  return y;
}

static Tensor bias_act(const std::optional<Tensor>& dy, const Tensor& x, const std::optional<Tensor>& b,
                       int64_t bias_step, int64_t act, double alpha, double gain, double clamp) {
  const c10::cuda::CUDAGuard guard(x.device());
  const BiasActParams p = bias_act_params(dy, x, b, bias_step, act, alpha, gain, clamp);
  Tensor y = at::empty_like(x);
  check(probes_bias_act(dtype_code(x), dy ? 1 : 0, dy ? dy->const_data_ptr() : nullptr, x.const_data_ptr(),
                        b ? b->const_data_ptr() : nullptr, y.mutable_data_ptr(), &p,
                        c10::cuda::getCurrentCUDAStream()),
        "bias_act");
  return y;
}

static Tensor filtered_lrelu(const Tensor& x, const std::optional<Tensor>& b, const Tensor& taps,
                             const std::optional<Tensor>& mask, at::IntArrayRef axis_x, at::IntArrayRef axis_y,
                             double slope, double clamp, int64_t mode) {
  const c10::cuda::CUDAGuard guard(x.device());
  const FilteredLreluParams p = filtered_lrelu_params(x, b, taps, mask, axis_x, axis_y, slope, clamp, mode);
  Tensor y = at::empty({x.size(0), x.size(1), p.y.out, p.x.out}, x.options());
  check(probes_filtered_lrelu(dtype_code(x), x.const_data_ptr(), b ? b->const_data_ptr() : nullptr,
                              taps.const_data_ptr(), y.mutable_data_ptr(),
                              mask ? mask->mutable_data_ptr<uint8_t>() : nullptr, &p,
                              c10::cuda::getCurrentCUDAStream()),
        "filtered_lrelu");
  return y;
}

}  // namespace probes

TORCH_LIBRARY(probes_cuda, m) {
  m.def(probes::kUpfirdn2dSchema);
  m.def(probes::kBiasActSchema);
  m.def(probes::kFilteredLreluSchema);
}
TORCH_LIBRARY_IMPL(probes_cuda, CUDA, m) {
  m.impl("upfirdn2d", probes::upfirdn2d);
  m.impl("bias_act", probes::bias_act);
  m.impl("filtered_lrelu", probes::filtered_lrelu);
}
