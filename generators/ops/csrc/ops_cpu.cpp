// The C++ CPU op: torch.ops.probes_cpu.{upfirdn2d, bias_act, filtered_lrelu}. The same arithmetic as the CUDA kernels (the *_core.h
// headers), parallel through at::parallel_for.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <vector>

#include "binding.h"

namespace probes {

// A tile is a band of whole rows: tall enough to share the samples that neighbouring rows read.
constexpr int kBand = 8;

template <typename T> static void upfirdn2d_planes(const T* x, const typename Accumulator<T>::type* taps, T* y,
                                                   const Upfirdn2dParams& p) {
  using A = typename Accumulator<T>::type;
  const int64_t bands = (p.y.out + kBand - 1) / kBand, planes = p.batch * p.channels;
  at::parallel_for(0, planes * bands, 1, [&](int64_t begin, int64_t end) {
    std::vector<A> buffer(static_cast<size_t>(tile_extent(p.x, p.x.out)) * tile_extent(p.y, kBand));
    for (int64_t job = begin; job < end; ++job) {
      const int64_t plane = job / bands;
      const Tile t = make_tile(p.x, p.y, 0, static_cast<int>(job % bands) * kBand, p.x.out, kBand);
      load_tile<T, A>(x + plane * p.x.in * p.y.in, buffer.data(), t, p.x, p.y, 0, 1);
      compute_tile<T, A>(buffer.data(), taps, y + plane * p.x.out * p.y.out, t, p.x, p.y, 0, 1);
    }
  });
}

static Tensor upfirdn2d(const Tensor& x, const Tensor& taps, at::IntArrayRef up, at::IntArrayRef down,
                        at::IntArrayRef padding, at::IntArrayRef size) {
  const Upfirdn2dParams p = upfirdn2d_params(x, taps, up, down, padding, size);
  Tensor y = empty_output(x, p);
  if (y.numel() == 0) return y;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "upfirdn2d", [&] {
    using A = typename Accumulator<scalar_t>::type;
    const auto* in = x.const_data_ptr<scalar_t>();
    const auto* filter = taps.const_data_ptr<A>();
    auto* out = y.mutable_data_ptr<scalar_t>();
    if (!p.channels_last) return upfirdn2d_planes<scalar_t>(in, filter, out, p);
    at::parallel_for(0, y.numel(), 4096, [&](int64_t begin, int64_t end) {
      upfirdn2d_direct_range<scalar_t, A>(in, filter, out, p, begin, end, 1);
    });
  });
  return y;
}

// Elements [begin, end) share runs of one bias value, so the inner loop is free of index arithmetic and vectorises.
template <typename T, int ACT> static void bias_act_range(const T* dy, const T* x, const T* bias, T* y,
                                                          const BiasActParams& p, int64_t begin, int64_t end) {
  using A = typename Accumulator<T>::type;
  const A alpha = static_cast<A>(p.alpha), gain = static_cast<A>(p.gain), clamp = static_cast<A>(p.clamp);
  while (begin < end) {
    const int64_t stop = bias ? std::min(end, (begin / p.bias_step + 1) * p.bias_step) : end;
    const A b = bias ? static_cast<A>(bias[bias_index(p, begin)]) : A(0);
    if (dy) {
      for (int64_t i = begin; i < stop; ++i) {
        y[i] = static_cast<T>(bias_act_gradient<ACT, A>(static_cast<A>(dy[i]), static_cast<A>(x[i]), b, alpha, gain,
                                                        clamp));
      }
    } else {
      for (int64_t i = begin; i < stop; ++i) {
        y[i] = static_cast<T>(bias_act_forward<ACT, A>(static_cast<A>(x[i]), b, alpha, gain, clamp));
      }
    }
    begin = stop;
  }
}

template <typename T> static auto range_for(int activation) {
  switch (activation) {
    case kRelu: return bias_act_range<T, kRelu>;
    case kLrelu: return bias_act_range<T, kLrelu>;
    case kTanh: return bias_act_range<T, kTanh>;
    case kSigmoid: return bias_act_range<T, kSigmoid>;
    case kElu: return bias_act_range<T, kElu>;
    case kSelu: return bias_act_range<T, kSelu>;
    case kSoftplus: return bias_act_range<T, kSoftplus>;
    case kSwish: return bias_act_range<T, kSwish>;
    default: return bias_act_range<T, kLinear>;
  }
}

static Tensor bias_act(const std::optional<Tensor>& dy, const Tensor& x, const std::optional<Tensor>& b,
                       int64_t bias_step, int64_t act, double alpha, double gain, double clamp) {
  const BiasActParams p = bias_act_params(dy, x, b, bias_step, act, alpha, gain, clamp);
  Tensor y = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "bias_act", [&] {
    const auto* upstream = dy ? dy->const_data_ptr<scalar_t>() : nullptr;
    const auto* in = x.const_data_ptr<scalar_t>();
    const auto* bias = b ? b->const_data_ptr<scalar_t>() : nullptr;
    auto* out = y.mutable_data_ptr<scalar_t>();
    const auto range = range_for<scalar_t>(p.activation);
    at::parallel_for(0, p.size, 16384, [&](int64_t begin, int64_t end) {
      range(upstream, in, bias, out, p, begin, end);
    });
  });
  return y;
}

template <typename T>
static void filtered_lrelu_planes(const T* x, const T* bias, const typename Accumulator<T>::type* taps, T* y,
                                  unsigned char* mask, const FilteredLreluParams& p) {
  using A = typename Accumulator<T>::type;
  const int64_t tiles_x = (p.x.out + p.tile_x - 1) / p.tile_x, tiles_y = (p.y.out + p.tile_y - 1) / p.tile_y;
  const A *rise_y = taps + p.x.taps_in, *fall_x = rise_y + p.y.taps_in, *fall_y = fall_x + p.x.taps_out;
  at::parallel_for(0, p.planes * tiles_x * tiles_y, 1, [&](int64_t begin, int64_t end) {
    const FilteredLayout layout = filtered_layout(p);
    std::vector<A> buffer(static_cast<size_t>(layout.first) + layout.second);
    A *samples = buffer.data(), *wide = samples + layout.samples, *upsampled = samples + layout.first;
    for (int64_t job = begin; job < end; ++job) {
      const int64_t plane = job / (tiles_x * tiles_y), tile = job % (tiles_x * tiles_y);
      const FilteredSpan sx = span(p.x, static_cast<int>(tile % tiles_x) * p.tile_x, p.tile_x);
      const FilteredSpan sy = span(p.y, static_cast<int>(tile / tiles_x) * p.tile_y, p.tile_y);
      const A b = bias ? static_cast<A>(bias[plane % p.channels]) : A(0);
      unsigned char* bits = mask ? mask + plane * mask_row(p) * p.y.middle : nullptr;
      filtered_load<T, A>(x + plane * p.x.in * p.y.in, b, samples, sx, sy, p, 0, 1);
      filtered_widen<A>(samples, taps, wide, p.x, sx, sy, 0, 1);
      filtered_heighten<A>(wide, rise_y, upsampled, bits, p.y, sx, sy, p, 0, 1);
      filtered_narrow<A>(upsampled, fall_x, samples, p.x, sx, sy, 0, 1);
      filtered_store<T, A>(samples, fall_y, y + plane * p.x.out * p.y.out, p.x, p.y, sx, sy, 0, 1);
    }
  });
}

static Tensor filtered_lrelu(const Tensor& x, const std::optional<Tensor>& b, const Tensor& taps,
                             const std::optional<Tensor>& mask, at::IntArrayRef axis_x, at::IntArrayRef axis_y,
                             double slope, double clamp, int64_t mode) {
  FilteredLreluParams p = filtered_lrelu_params(x, b, taps, mask, axis_x, axis_y, slope, clamp, mode);
  p.tile_x = p.tile_y = 32;
  Tensor y = at::empty({x.size(0), x.size(1), p.y.out, p.x.out}, x.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "filtered_lrelu", [&] {
    using A = typename Accumulator<scalar_t>::type;
    filtered_lrelu_planes<scalar_t>(x.const_data_ptr<scalar_t>(), b ? b->const_data_ptr<scalar_t>() : nullptr,
                                    taps.const_data_ptr<A>(), y.mutable_data_ptr<scalar_t>(),
                                    mask ? mask->mutable_data_ptr<uint8_t>() : nullptr, p);
  });
  return y;
}

}  // namespace probes

TORCH_LIBRARY(probes_cpu, m) {
  m.def(probes::kUpfirdn2dSchema);
  m.def(probes::kBiasActSchema);
  m.def(probes::kFilteredLreluSchema);
}
TORCH_LIBRARY_IMPL(probes_cpu, CPU, m) {
  m.impl("upfirdn2d", probes::upfirdn2d);
  m.impl("bias_act", probes::bias_act);
  m.impl("filtered_lrelu", probes::filtered_lrelu);
}
