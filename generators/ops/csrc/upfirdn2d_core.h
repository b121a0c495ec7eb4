// The arithmetic of one pass of upfirdn2d, shared by the CUDA kernels and the CPU op.
//
//   y[oy, ox] = sum_{ky, kx} taps[ky, kx] · P[oy·down_y + ky, ox·down_x + kx]      (a correlation: the caller flips)
//   P[j] = U[j - pad],   U[i·up] = x[i],  0 elsewhere
//
// Only taps that meet a sample of x are visited (polyphase): per axis and output o they start at tap k = i·up - base
// with base = o·down - pad and i = ceil(base / up), and advance by `up` taps for every sample.
#pragma once
#include "portable.h"

namespace probes {

struct Axis { int in, out, up, down, pad, taps; };

struct Upfirdn2dParams {
  Axis x, y;
  int64_t batch, channels;
  int channels_last;  // memory order of input and output: 1 = N,H,W,C; 0 = N,C,H,W
};

// The samples that output o touches before the border is looked at: sample + j meets tap + j·up.
struct Window { int sample, tap; };

PROBES_HD Window window(const Axis& a, int o) {
  const int base = o * a.down - a.pad;
  const int sample = base > 0 ? (base + a.up - 1) / a.up : -(-base / a.up);
  return {sample, sample * a.up - base};
}

PROBES_HD int taps_per_phase(const Axis& a) { return (a.taps + a.up - 1) / a.up; }

// One output read straight from memory: `x` points at the first sample of its image and channel.
template <typename T, typename A>
PROBES_HD A upfirdn2d_direct(const T* x, const A* taps, const Axis& ax, const Axis& ay, int64_t row, int64_t column,
                             int oy, int ox) {
  const Window wy = window(ay, oy), wx = window(ax, ox);
  A sum = 0;
  for (int i = wy.sample, ky = wy.tap; ky < ay.taps; ++i, ky += ay.up) {
    if (i < 0 || i >= ay.in) continue;
    for (int j = wx.sample, kx = wx.tap; kx < ax.taps; ++j, kx += ax.up) {
      if (j < 0 || j >= ax.in) continue;
      sum += taps[ky * ax.taps + kx] * static_cast<A>(x[i * row + j * column]);
    }
  }
  return sum;
}

// Every output of `begin`, `begin + step`, … < `end`, numbered in memory order, so that neighbouring threads read
// neighbouring samples in either layout. Any filter size; no scratch memory.
template <typename T, typename A>
PROBES_HD void upfirdn2d_direct_range(const T* x, const A* taps, T* y, const Upfirdn2dParams& p, int64_t begin,
                                      int64_t end, int64_t step) {
  const int64_t plane = static_cast<int64_t>(p.x.in) * p.y.in;
  for (int64_t index = begin; index < end; index += step) {
    int64_t rest = index, c, n;
    int ox, oy;
    if (p.channels_last) {
      c = rest % p.channels; rest /= p.channels;
      ox = static_cast<int>(rest % p.x.out); rest /= p.x.out;
      oy = static_cast<int>(rest % p.y.out); n = rest / p.y.out;
    } else {
      ox = static_cast<int>(rest % p.x.out); rest /= p.x.out;
      oy = static_cast<int>(rest % p.y.out); rest /= p.y.out;
      c = rest % p.channels; n = rest / p.channels;
    }
    const T* first = p.channels_last ? x + n * plane * p.channels + c : x + (n * p.channels + c) * plane;
    const int64_t column = p.channels_last ? p.channels : 1;
    y[index] = static_cast<T>(upfirdn2d_direct<T, A>(first, taps, p.x, p.y, column * p.x.in, column, oy, ox));
  }
}

// A tile: a rectangle of outputs of one plane, and the rectangle of samples that any of them touches.
struct Tile { int out_x, out_y, width, height, in_x, in_y, in_width, in_height; };

// Most samples that n consecutive outputs can touch: they span (n-1)·down + taps positions, one in `up` a sample.
PROBES_HD int tile_extent(const Axis& a, int n) { return ((n - 1) * a.down + a.taps - 1) / a.up + 1; }

PROBES_HD Tile make_tile(const Axis& ax, const Axis& ay, int out_x, int out_y, int width, int height) {
  return {out_x, out_y, width, height, window(ax, out_x).sample, window(ay, out_y).sample,
          tile_extent(ax, width), tile_extent(ay, height)};
}

// The two halves of a tile's work, each shared out over `threads` threads; a barrier belongs between them.
template <typename T, typename A>
PROBES_HD void load_tile(const T* plane, A* buffer, const Tile& t, const Axis& ax, const Axis& ay, int thread,
                         int threads) {
  for (int i = thread; i < t.in_width * t.in_height; i += threads) {
    const int row = t.in_y + i / t.in_width, column = t.in_x + i % t.in_width;
    const bool inside = row >= 0 && row < ay.in && column >= 0 && column < ax.in;
    buffer[i] = inside ? static_cast<A>(plane[static_cast<int64_t>(row) * ax.in + column]) : A(0);
  }
}

template <typename T, typename A>
PROBES_HD void compute_tile(const A* buffer, const A* taps, T* plane, const Tile& t, const Axis& ax, const Axis& ay,
                            int thread, int threads) {
  const int per_y = taps_per_phase(ay), per_x = taps_per_phase(ax);  // constants where up and taps are
  for (int i = thread; i < t.width * t.height; i += threads) {
    const int oy = t.out_y + i / t.width, ox = t.out_x + i % t.width;
    if (oy >= ay.out || ox >= ax.out) continue;
    const Window wy = window(ay, oy), wx = window(ax, ox);
    const A* first = buffer + (wy.sample - t.in_y) * t.in_width + (wx.sample - t.in_x);
    A sum = 0;
#pragma unroll
    for (int r = 0; r < per_y; ++r) {
      const int ky = wy.tap + r * ay.up;
      if (ky >= ay.taps) break;
#pragma unroll
      for (int s = 0; s < per_x; ++s) {
        const int kx = wx.tap + s * ax.up;
        if (kx < ax.taps) sum += taps[ky * ax.taps + kx] * first[r * t.in_width + s];
      }
    }
    plane[static_cast<int64_t>(oy) * ax.out + ox] = static_cast<T>(sum);
  }
}

}  // namespace probes
