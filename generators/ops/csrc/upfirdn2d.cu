// upfirdn2d on the GPU. Two kernels, one arithmetic (upfirdn2d_core.h):
//   tiled   planes in N,C,H,W order: a block stages the samples of a 32x32 tile of outputs in shared memory, once,
//           as float; the usual up/down factors and filter sizes are compile-time constants, so their loops unroll.
//   direct  N,H,W,C order (threads run along the channels: coalesced as it is), images smaller than a tile,
//           and filters too large for shared memory.
#include "launch.h"

namespace probes {
namespace {

constexpr int kTile = 32, kThreads = 256, kSharedBytes = 48 * 1024;
constexpr int64_t kMaxBlocks = 1 << 20;

template <typename T, typename A>
__global__ void __launch_bounds__(kThreads) direct_kernel(const T* x, const A* taps, T* y, Upfirdn2dParams p) {
  const int64_t total = p.batch * p.channels * p.x.out * p.y.out;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  upfirdn2d_direct_range<T, A>(x, taps, y, p, first, total, static_cast<int64_t>(gridDim.x) * blockDim.x);
}

// UP, DOWN, TAPS hold for both axes; UP = 0 leaves all three to run time.
template <typename T, typename A, int UP, int DOWN, int TAPS>
__global__ void __launch_bounds__(kThreads) tiled_kernel(const T* x, const A* taps, T* y, Upfirdn2dParams p) {
  PROBES_SHARED(shared);
  const Axis ax = UP ? Axis{p.x.in, p.x.out, UP, DOWN, p.x.pad, TAPS} : p.x;
  const Axis ay = UP ? Axis{p.y.in, p.y.out, UP, DOWN, p.y.pad, TAPS} : p.y;
  A* shared_taps = reinterpret_cast<A*>(shared);
  A* buffer = shared_taps + ax.taps * ay.taps;
  for (int i = threadIdx.x; i < ax.taps * ay.taps; i += blockDim.x) shared_taps[i] = taps[i];

  const int tiles_x = (ax.out + kTile - 1) / kTile, tiles_y = (ay.out + kTile - 1) / kTile;
  const int64_t jobs = p.batch * p.channels * tiles_x * tiles_y;
  for (int64_t job = blockIdx.x; job < jobs; job += gridDim.x) {
    const int64_t plane = job / (tiles_x * tiles_y);
    const int tile = static_cast<int>(job % (tiles_x * tiles_y));
    const Tile t = make_tile(ax, ay, tile % tiles_x * kTile, tile / tiles_x * kTile, kTile, kTile);
    load_tile<T, A>(x + plane * ax.in * ay.in, buffer, t, ax, ay, threadIdx.x, blockDim.x);
    __syncthreads();
    compute_tile<T, A>(buffer, shared_taps, y + plane * ax.out * ay.out, t, ax, ay, threadIdx.x, blockDim.x);
    __syncthreads();  // the next job overwrites the buffer
  }
}

bool square(const Upfirdn2dParams& p, int up, int down, int taps) {
  return p.x.up == up && p.y.up == up && p.x.down == down && p.y.down == down && p.x.taps == taps && p.y.taps == taps;
}

int blocks_for(int64_t work) { return static_cast<int>(work < kMaxBlocks ? work : kMaxBlocks); }

template <typename T>
cudaError_t run(const void* x_, const void* taps_, void* y_, const Upfirdn2dParams& p, cudaStream_t stream) {
  using A = typename Accumulator<T>::type;
  const T* x = static_cast<const T*>(x_);
  const A* taps = static_cast<const A*>(taps_);
  T* y = static_cast<T*>(y_);
  const int64_t total = p.batch * p.channels * p.x.out * p.y.out;
  if (total == 0) return cudaSuccess;

  const int64_t samples = static_cast<int64_t>(tile_extent(p.x, kTile)) * tile_extent(p.y, kTile);
  const int64_t bytes = (samples + static_cast<int64_t>(p.x.taps) * p.y.taps) * static_cast<int64_t>(sizeof(A));
  const bool tiny = static_cast<int64_t>(p.x.out) * p.y.out < kTile * kTile / 4;
  if (p.channels_last || tiny || bytes > kSharedBytes) {
    auto kernel = direct_kernel<T, A>;
    PROBES_LAUNCH(kernel, blocks_for((total + kThreads - 1) / kThreads), kThreads, 0, stream, x, taps, y, p);
    return cudaGetLastError();
  }
  const int64_t tiles = static_cast<int64_t>((p.x.out + kTile - 1) / kTile) * ((p.y.out + kTile - 1) / kTile);
  auto kernel = tiled_kernel<T, A, 0, 0, 0>;
  if (square(p, 1, 1, 4)) kernel = tiled_kernel<T, A, 1, 1, 4>;
  if (square(p, 2, 1, 4)) kernel = tiled_kernel<T, A, 2, 1, 4>;
  if (square(p, 1, 2, 4)) kernel = tiled_kernel<T, A, 1, 2, 4>;
  PROBES_LAUNCH(kernel, blocks_for(p.batch * p.channels * tiles), kThreads, static_cast<size_t>(bytes), stream, x, taps,
                y, p);
  return cudaGetLastError();
}

}  // namespace
}  // namespace probes

extern "C" cudaError_t probes_upfirdn2d(int dtype, const void* x, const void* taps, void* y,
                                        const probes::Upfirdn2dParams* params, cudaStream_t stream) {
  switch (dtype) {
    case probes::kFloat32: return probes::run<float>(x, taps, y, *params, stream);
    case probes::kFloat64: return probes::run<double>(x, taps, y, *params, stream);
#ifndef PROBES_EMULATE
    case probes::kFloat16: return probes::run<__half>(x, taps, y, *params, stream);
    case probes::kBFloat16: return probes::run<__nv_bfloat16>(x, taps, y, *params, stream);
#endif
    default: return cudaErrorInvalidValue;
  }
}
