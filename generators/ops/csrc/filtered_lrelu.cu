// filtered_lrelu on the GPU: one kernel for the op and its derivatives (filtered_lrelu_core.h). A block takes a tile of
// outputs through shared memory, from samples to results: the upsampled signal, 4 to 16 times the image, never reaches
// global memory, only 2 bits of each of its samples do. Factors and filter sizes of the usual layers are compile-time
// constants, so that their loops unroll. Planes in N,C,H,W order.
#include "launch.h"

namespace probes {
namespace {

constexpr int kThreads = 256, kSharedBytes = 48 * 1024;
constexpr int64_t kMaxBlocks = 1 << 20;

// UP = 0 leaves factors and sizes to run time; otherwise they hold for both axes.
template <typename T, typename A, int UP, int TAPS_IN, int DOWN, int TAPS_OUT>
__global__ void __launch_bounds__(kThreads) filtered_kernel(const T* x, const T* bias, const A* taps, T* y,
                                                            unsigned char* mask, FilteredLreluParams p) {
  PROBES_SHARED(shared);
  FilteredAxis ax = p.x, ay = p.y;
  if (UP) {
    ax.up = ay.up = UP; ax.taps_in = ay.taps_in = TAPS_IN;
    ax.down = ay.down = DOWN; ax.taps_out = ay.taps_out = TAPS_OUT;
  }
  A* rise_x = reinterpret_cast<A*>(shared);
  A* rise_y = rise_x + ax.taps_in;
  A* fall_x = rise_y + ay.taps_in;
  A* fall_y = fall_x + ax.taps_out;
  A* samples = fall_y + ay.taps_out;
  const FilteredLayout layout = filtered_layout(p);
  A* wide = samples + layout.samples;
  A* upsampled = samples + layout.first;
  const int all_taps = ax.taps_in + ay.taps_in + ax.taps_out + ay.taps_out;
  for (int i = threadIdx.x; i < all_taps; i += blockDim.x) rise_x[i] = taps[i];

  const int tiles_x = (ax.out + p.tile_x - 1) / p.tile_x, tiles_y = (ay.out + p.tile_y - 1) / p.tile_y;
  const int64_t jobs = p.planes * tiles_x * tiles_y, plane_mask = mask_row(p) * ay.middle;
  const int thread = threadIdx.x, threads = blockDim.x;
  for (int64_t job = blockIdx.x; job < jobs; job += gridDim.x) {
    const int64_t plane = job / (tiles_x * tiles_y);
    const int tile = static_cast<int>(job % (tiles_x * tiles_y));
    const FilteredSpan sx = span(ax, tile % tiles_x * p.tile_x, p.tile_x);
    const FilteredSpan sy = span(ay, tile / tiles_x * p.tile_y, p.tile_y);
    const A b = bias ? static_cast<A>(bias[plane % p.channels]) : A(0);
    filtered_load<T, A>(x + plane * ax.in * ay.in, b, samples, sx, sy, p, thread, threads);
    __syncthreads();
    filtered_widen<A>(samples, rise_x, wide, ax, sx, sy, thread, threads);
    __syncthreads();
    filtered_heighten<A>(wide, rise_y, upsampled, mask ? mask + plane * plane_mask : nullptr, ay, sx, sy, p, thread,
                         threads);
    __syncthreads();
    filtered_narrow<A>(upsampled, fall_x, samples, ax, sx, sy, thread, threads);
    __syncthreads();
    filtered_store<T, A>(samples, fall_y, y + plane * ax.out * ay.out, ax, ay, sx, sy, thread, threads);
    __syncthreads();  // the next job overwrites the samples
  }
}

bool square(const FilteredLreluParams& p, int up, int taps_in, int down, int taps_out) {
  for (const FilteredAxis& a : {p.x, p.y}) {
    if (a.up != up || a.taps_in != taps_in || a.down != down || a.taps_out != taps_out) return false;
  }
  return true;
}

template <typename T>
cudaError_t run(const void* x_, const void* bias_, const void* taps_, void* y_, unsigned char* mask, FilteredLreluParams p,
                cudaStream_t stream) {
  using A = typename Accumulator<T>::type;
  if (p.planes == 0 || p.x.out <= 0 || p.y.out <= 0) return cudaSuccess;
  if (p.mode != kActivate && mask == nullptr) return cudaErrorInvalidValue;
  int64_t bytes = kSharedBytes + 1;
  constexpr int kTiles[][2] = {{32, 32}, {32, 16}, {16, 16}, {16, 8}, {8, 8}};
  for (const auto& tile : kTiles) {
    if (bytes <= kSharedBytes) break;
    p.tile_x = tile[0];
    p.tile_y = tile[1];
    const FilteredLayout layout = filtered_layout(p);
    const int64_t taps = p.x.taps_in + p.y.taps_in + p.x.taps_out + p.y.taps_out;
    bytes = (taps + layout.first + layout.second) * static_cast<int64_t>(sizeof(A));
  }
  if (bytes > kSharedBytes) return cudaErrorInvalidValue;  // the caller asks only for what fits

  auto kernel = filtered_kernel<T, A, 0, 0, 0, 0>;
  if (square(p, 2, 12, 2, 12)) kernel = filtered_kernel<T, A, 2, 12, 2, 12>;
  if (square(p, 4, 24, 2, 12)) kernel = filtered_kernel<T, A, 4, 24, 2, 12>;
  if (square(p, 2, 12, 4, 24)) kernel = filtered_kernel<T, A, 2, 12, 4, 24>;
  const int64_t tiles = static_cast<int64_t>((p.x.out + p.tile_x - 1) / p.tile_x) * ((p.y.out + p.tile_y - 1) / p.tile_y);
  const int64_t jobs = p.planes * tiles;
  PROBES_LAUNCH(kernel, static_cast<int>(jobs < kMaxBlocks ? jobs : kMaxBlocks), kThreads, static_cast<size_t>(bytes),
                stream, static_cast<const T*>(x_), static_cast<const T*>(bias_), static_cast<const A*>(taps_),
                static_cast<T*>(y_), mask, p);
  return cudaGetLastError();
}

}  // namespace
}  // namespace probes

extern "C" cudaError_t probes_filtered_lrelu(int dtype, const void* x, const void* bias, const void* taps, void* y,
                                             unsigned char* mask, const probes::FilteredLreluParams* params,
                                             cudaStream_t stream) {
  switch (dtype) {
    case probes::kFloat32: return probes::run<float>(x, bias, taps, y, mask, *params, stream);
    case probes::kFloat64: return probes::run<double>(x, bias, taps, y, mask, *params, stream);
#ifndef PROBES_EMULATE
    case probes::kFloat16: return probes::run<__half>(x, bias, taps, y, mask, *params, stream);
    case probes::kBFloat16: return probes::run<__nv_bfloat16>(x, bias, taps, y, mask, *params, stream);
#endif
    default: return cudaErrorInvalidValue;
  }
}
