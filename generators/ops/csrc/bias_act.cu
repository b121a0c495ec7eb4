// bias_act on the GPU: memory-bound, so a thread moves 16 bytes at a time and strides over the grid.
#include "launch.h"

namespace probes {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 16;

// 16 aligned bytes of T, so that a copy is one load or store.
template <typename T> struct alignas(16) Pack { static constexpr int size = 16 / sizeof(T); T value[size]; };

template <typename T, typename A, int ACT, bool GRADIENT>
PROBES_HD T element(T dy, T x, A bias, const BiasActParams& p) {
  const A alpha = static_cast<A>(p.alpha), gain = static_cast<A>(p.gain), clamp = static_cast<A>(p.clamp);
  if (GRADIENT) {
    return static_cast<T>(
        bias_act_gradient<ACT, A>(static_cast<A>(dy), static_cast<A>(x), bias, alpha, gain, clamp));
  }
  return static_cast<T>(bias_act_forward<ACT, A>(static_cast<A>(x), bias, alpha, gain, clamp));
}

template <typename T, typename A, int ACT, bool GRADIENT>
__global__ void __launch_bounds__(kThreads)
bias_act_kernel(const T* dy, const T* x, const T* bias, T* y, BiasActParams p, bool vectorised) {
  constexpr int kPack = Pack<T>::size;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t packs = vectorised ? p.size / kPack : 0;
  const bool one_bias = p.bias_size == 0 || p.bias_step % kPack == 0;  // the pack lies within one channel
  for (int64_t pack = first; pack < packs; pack += step) {
    const Pack<T> in = reinterpret_cast<const Pack<T>*>(x)[pack];
    Pack<T> upstream = in, out;
    if (GRADIENT) upstream = reinterpret_cast<const Pack<T>*>(dy)[pack];
    A b = 0;
    if (p.bias_size > 0) b = static_cast<A>(bias[bias_index(p, pack * kPack)]);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (!one_bias) b = static_cast<A>(bias[bias_index(p, pack * kPack + i)]);
      out.value[i] = element<T, A, ACT, GRADIENT>(upstream.value[i], in.value[i], b, p);
    }
    reinterpret_cast<Pack<T>*>(y)[pack] = out;
  }
  for (int64_t i = packs * kPack + first; i < p.size; i += step) {  // the tail, or everything when unaligned
    const A b = p.bias_size > 0 ? static_cast<A>(bias[bias_index(p, i)]) : A(0);
    y[i] = element<T, A, ACT, GRADIENT>(GRADIENT ? dy[i] : x[i], x[i], b, p);
  }
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <typename T, int ACT>
cudaError_t launch(bool gradient, const void* dy, const void* x, const void* bias, void* y, const BiasActParams& p,
                   cudaStream_t stream) {
  using A = typename Accumulator<T>::type;
  const bool vectorised = aligned(x) && aligned(y) && (!gradient || aligned(dy));
  const int64_t items = vectorised ? p.size / Pack<T>::size + Pack<T>::size : p.size;
  const int64_t wanted = (items + kThreads - 1) / kThreads;
  const int blocks = static_cast<int>(wanted < kMaxBlocks ? wanted : kMaxBlocks);
  auto kernel = gradient ? bias_act_kernel<T, A, ACT, true> : bias_act_kernel<T, A, ACT, false>;
  PROBES_LAUNCH(kernel, blocks, kThreads, 0, stream, static_cast<const T*>(dy), static_cast<const T*>(x),
                static_cast<const T*>(bias), static_cast<T*>(y), p, vectorised);
  return cudaGetLastError();
}

template <typename T>
cudaError_t run(bool gradient, const void* dy, const void* x, const void* bias, void* y, const BiasActParams& p,
                cudaStream_t stream) {
  if (p.size == 0) return cudaSuccess;
  switch (p.activation) {
    case kLinear: return launch<T, kLinear>(gradient, dy, x, bias, y, p, stream);
    case kRelu: return launch<T, kRelu>(gradient, dy, x, bias, y, p, stream);
    case kLrelu: return launch<T, kLrelu>(gradient, dy, x, bias, y, p, stream);
    case kTanh: return launch<T, kTanh>(gradient, dy, x, bias, y, p, stream);
    case kSigmoid: return launch<T, kSigmoid>(gradient, dy, x, bias, y, p, stream);
    case kElu: return launch<T, kElu>(gradient, dy, x, bias, y, p, stream);
    case kSelu: return launch<T, kSelu>(gradient, dy, x, bias, y, p, stream);
    case kSoftplus: return launch<T, kSoftplus>(gradient, dy, x, bias, y, p, stream);
    case kSwish: return launch<T, kSwish>(gradient, dy, x, bias, y, p, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace
}  // namespace probes

extern "C" cudaError_t probes_bias_act(int dtype, int gradient, const void* dy, const void* x, const void* bias,
                                       void* y, const probes::BiasActParams* params, cudaStream_t stream) {
  const bool g = gradient != 0;
  switch (dtype) {
    case probes::kFloat32: return probes::run<float>(g, dy, x, bias, y, *params, stream);
    case probes::kFloat64: return probes::run<double>(g, dy, x, bias, y, *params, stream);
#ifndef PROBES_EMULATE
    case probes::kFloat16: return probes::run<__half>(g, dy, x, bias, y, *params, stream);
    case probes::kBFloat16: return probes::run<__nv_bfloat16>(g, dy, x, bias, y, *params, stream);
#endif
    default: return cudaErrorInvalidValue;
  }
}
