// What the two torch bindings share: the schemas, and how a checked tensor becomes the kernels' parameters.
// The Python side has validated arguments already; these checks guard the memory the kernels touch.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <optional>

#include "bias_act_core.h"
#include "filtered_lrelu_core.h"
#include "upfirdn2d_core.h"

namespace probes {

using at::Tensor;

inline constexpr const char* kUpfirdn2dSchema =
    "upfirdn2d(Tensor x, Tensor taps, int[] up, int[] down, int[] padding, int[] size) -> Tensor";
inline constexpr const char* kBiasActSchema =
    "bias_act(Tensor? dy, Tensor x, Tensor? b, int bias_step, int act, float alpha, float gain, float clamp) -> Tensor";
inline constexpr const char* kFilteredLreluSchema =
    "filtered_lrelu(Tensor x, Tensor? b, Tensor taps, Tensor(a!)? mask, int[] axis_x, int[] axis_y, float slope, "
    "float clamp, int mode) -> Tensor";

inline int dtype_code(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return kFloat32;
    case at::kDouble: return kFloat64;
    case at::kHalf: return kFloat16;
    case at::kBFloat16: return kBFloat16;
    default: TORCH_CHECK(false, "x: float32, float64, float16 or bfloat16 expected, got ", x.scalar_type());
  }
}

// up, down: (x, y); padding: (x0, x1, y0, y1); size: (height, width) of the output.
inline Upfirdn2dParams upfirdn2d_params(const Tensor& x, const Tensor& taps, at::IntArrayRef up, at::IntArrayRef down,
                                        at::IntArrayRef padding, at::IntArrayRef size) {
  TORCH_CHECK(x.dim() == 4 && taps.dim() == 2 && taps.is_contiguous() && taps.device() == x.device());
  TORCH_CHECK(taps.scalar_type() == (x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  TORCH_CHECK(up.size() == 2 && down.size() == 2 && padding.size() == 4 && size.size() == 2);
  const bool planar = x.is_contiguous();
  TORCH_CHECK(planar || x.is_contiguous(at::MemoryFormat::ChannelsLast), "x must be dense");
  auto axis = [&](int64_t in, int64_t out, int i, int64_t n) {
    TORCH_CHECK(up[i] > 0 && down[i] > 0 && in < (1 << 24) && out < (1 << 24));
    TORCH_CHECK((out - 1) * down[i] + n <= in * up[i] + padding[2 * i] + padding[2 * i + 1]);
    return Axis{int(in), int(out), int(up[i]), int(down[i]), int(padding[2 * i]), int(n)};
  };
  return {axis(x.size(3), size[1], 0, taps.size(1)), axis(x.size(2), size[0], 1, taps.size(0)), x.size(0), x.size(1),
          planar ? 0 : 1};
}

inline Tensor empty_output(const Tensor& x, const Upfirdn2dParams& p) {
  const auto format = p.channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  return at::empty({p.batch, p.channels, p.y.out, p.x.out}, x.options(), format);
}

// dy and x share one dense layout (compared by strides); bias is contiguous.
inline BiasActParams bias_act_params(const std::optional<Tensor>& dy, const Tensor& x, const std::optional<Tensor>& b,
                                     int64_t bias_step, int64_t act, double alpha, double gain, double clamp) {
  TORCH_CHECK(x.is_non_overlapping_and_dense() && act >= 0 && act < kActivations && bias_step > 0);
  if (dy) TORCH_CHECK(dy->strides() == x.strides() && dy->sizes() == x.sizes() && dy->dtype() == x.dtype());
  if (b) TORCH_CHECK(b->is_contiguous() && b->dtype() == x.dtype() && b->device() == x.device());
  return {x.numel(), bias_step, b ? b->numel() : 0, int(act), alpha, gain, clamp};
}

// axis: in, middle, out, up, down, pad_in, pad_out, taps_in, taps_out.
inline FilteredLreluParams filtered_lrelu_params(const Tensor& x, const std::optional<Tensor>& b, const Tensor& taps,
                                                 const std::optional<Tensor>& mask, at::IntArrayRef axis_x,
                                                 at::IntArrayRef axis_y, double slope, double clamp, int64_t mode) {
  TORCH_CHECK(x.dim() == 4 && x.is_contiguous() && taps.is_contiguous() && taps.device() == x.device());
  TORCH_CHECK(taps.scalar_type() == (x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  auto axis = [](at::IntArrayRef a, int64_t in) {
    TORCH_CHECK(a.size() == 9 && a[0] == in && a[1] > 0 && a[2] > 0 && a[3] > 0 && a[4] > 0 && a[7] > 0 && a[8] > 0);
    for (const int64_t n : a) TORCH_CHECK(n < (1 << 24) && n > -(1 << 24));
    return FilteredAxis{int(a[0]), int(a[1]), int(a[2]), int(a[3]), int(a[4]), int(a[5]), int(a[6]), int(a[7]), int(a[8])};
  };
  const FilteredLreluParams p{axis(axis_x, x.size(3)), axis(axis_y, x.size(2)), x.size(0) * x.size(1), x.size(1), slope,
                              clamp, int(mode), 8, 8};
  TORCH_CHECK(taps.numel() == p.x.taps_in + p.y.taps_in + p.x.taps_out + p.y.taps_out);
  TORCH_CHECK(mode == kActivate || mode == kActivateAndKeep || mode == kMultiplyBySlope);
  TORCH_CHECK(mode != kActivateAndKeep || (p.x.pad_out == 0 && p.y.pad_out == 0));
  if (b) TORCH_CHECK(b->is_contiguous() && b->numel() == p.channels && b->dtype() == x.dtype() && b->device() == x.device());
  TORCH_CHECK(mask.has_value() == (mode != kActivate));
  if (mask) TORCH_CHECK(mask->is_contiguous() && mask->scalar_type() == at::kByte && mask->device() == x.device());
  if (mask) TORCH_CHECK(mask->numel() == p.planes * p.y.middle * mask_row(p));
  return p;
}

}  // namespace probes
