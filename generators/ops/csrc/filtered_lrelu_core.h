// The arithmetic of one tile of filtered_lrelu, shared by the CUDA kernel and the CPU op.
//
//   u[j] = sum_k rise[k] · P[j + k - pad_in],   P[i·up] = x[i] + b,  0 elsewhere        0 <= j < middle
//   y[o] = sum_k fall[k] · φ(u)[o·down + k - pad_out]                                   u = 0 outside
//
// along both axes, with separable filters (correlations: the caller flips). φ is clamp(lrelu(u)), and 2 bits a sample
// say which piece of it u is on; or φ multiplies by the slope of that piece. The derivative of the op along a direction
// is the same tile with the bits read, and so is its transpose, with filters and factors exchanged.
#pragma once
#include "portable.h"

namespace probes {

struct FilteredAxis { int in, middle, out, up, down, pad_in, pad_out, taps_in, taps_out; };

enum FilteredMode : int { kActivate = 0, kActivateAndKeep = 1, kMultiplyBySlope = 2 };
enum FilteredPiece : unsigned { kPositive = 0, kNegative = 1, kClamped = 2 };

struct FilteredLreluParams {
  FilteredAxis x, y;
  int64_t planes, channels;  // planes: batch · channels
  double slope, clamp;       // clamp < 0: none
  int mode, tile_x, tile_y;  // outputs of a tile; multiples of 8, so that no two tiles write to one byte of the mask
};

PROBES_HD int64_t mask_row(const FilteredLreluParams& p) { return (p.x.middle + 3) / 4; }

// A tile along one axis: its outputs, and the positions and samples they need; neither is clipped to the image.
struct FilteredSpan { int out, outs, middle, middles, in, ins; };

PROBES_HD int ceil_div(int a, int b) { return a > 0 ? (a + b - 1) / b : -(-a / b); }
PROBES_HD int middles_for(const FilteredAxis& a, int outs) { return (outs - 1) * a.down + a.taps_out; }
PROBES_HD int ins_for(const FilteredAxis& a, int middles) { return (middles + a.taps_in - 2) / a.up + 1; }

PROBES_HD FilteredSpan span(const FilteredAxis& a, int out, int outs) {
  const int middle = out * a.down - a.pad_out, middles = middles_for(a, outs);
  return {out, outs, middle, middles, ceil_div(middle - a.pad_in, a.up), ins_for(a, middles)};
}

// Scratch memory of a tile, in elements: [samples | widened], where the narrowed signal goes later, then the upsampled.
struct FilteredLayout { int samples, first, second; };

PROBES_HD FilteredLayout filtered_layout(const FilteredLreluParams& p) {
  const int mx = middles_for(p.x, p.tile_x), my = middles_for(p.y, p.tile_y);
  const int ix = ins_for(p.x, mx), iy = ins_for(p.y, my);
  const int early = iy * ix + iy * mx, late = my * p.tile_x;
  return {iy * ix, early > late ? early : late, my * mx};
}

// The five steps, each shared out over `threads` threads, a barrier after each.

template <typename T, typename A>
PROBES_HD void filtered_load(const T* plane, A bias, A* samples, const FilteredSpan& sx, const FilteredSpan& sy,
                             const FilteredLreluParams& p, int thread, int threads) {
  for (int i = thread; i < sy.ins * sx.ins; i += threads) {
    const int row = sy.in + i / sx.ins, column = sx.in + i % sx.ins;
    const bool inside = row >= 0 && row < p.y.in && column >= 0 && column < p.x.in;
    samples[i] = inside ? static_cast<A>(plane[static_cast<int64_t>(row) * p.x.in + column]) + bias : A(0);
  }
}

// sum over the taps that meet a sample, for position j of the upsampled signal; `from` is sample s.in of its line.
template <typename A>
PROBES_HD A filtered_rise(const A* from, int stride, const A* taps, const FilteredAxis& a, const FilteredSpan& s, int j) {
  const int base = j - a.pad_in, i = ceil_div(base, a.up);
  A sum = 0;
  from += (i - s.in) * stride;
#pragma unroll
  for (int k = i * a.up - base; k < a.taps_in; k += a.up, from += stride) sum += taps[k] * *from;
  return sum;
}

template <typename A>
PROBES_HD void filtered_widen(const A* samples, const A* taps, A* wide, const FilteredAxis& ax, const FilteredSpan& sx,
                              const FilteredSpan& sy, int thread, int threads) {
  for (int i = thread; i < sy.ins * sx.middles; i += threads) {
    wide[i] = filtered_rise(samples + i / sx.middles * sx.ins, 1, taps, ax, sx, sx.middle + i % sx.middles);
  }
}

template <typename A> PROBES_HD A filtered_phi(A u, unsigned& piece, A slope, A clamp) {
  piece = u > 0 ? kPositive : kNegative;
  const A v = u > 0 ? u : u * slope;
  if (clamp < 0 || (v < clamp && v > -clamp) || v != v) return v;
  piece = kClamped;
  return v > 0 ? clamp : -clamp;
}

// Columns and φ. A thread takes four neighbours at a time: one byte of the mask.
template <typename A>
PROBES_HD void filtered_heighten(const A* wide, const A* taps, A* upsampled, unsigned char* mask, const FilteredAxis& ay,
                                 const FilteredSpan& sx, const FilteredSpan& sy, const FilteredLreluParams& p, int thread,
                                 int threads) {
  const A slope = static_cast<A>(p.slope), clamp = static_cast<A>(p.clamp);
  const int groups = (sx.middles + 3) / 4;
  // Tiles overlap; of the mask each writes the positions that its outputs are the first to need, the last tile the rest.
  const int end_x = sx.out + sx.outs < p.x.out ? (sx.out + sx.outs) * p.x.down : p.x.middle;
  const int end_y = sy.out + sy.outs < p.y.out ? (sy.out + sy.outs) * p.y.down : p.y.middle;
  for (int i = thread; i < sy.middles * groups; i += threads) {
    const int row = i / groups, y = sy.middle + row, first = i % groups * 4;
    unsigned bits = 0;
    for (int n = 0; n < 4 && first + n < sx.middles; ++n) {
      const int x = sx.middle + first + n;
      A u = 0;
      if (y >= 0 && y < p.y.middle && x >= 0 && x < p.x.middle) {
        u = filtered_rise(wide + first + n, sx.middles, taps, ay, sy, y);
        unsigned piece;
        if (p.mode == kMultiplyBySlope) {
          piece = mask[y * mask_row(p) + x / 4] >> (x % 4 * 2) & 3u;
          u = piece == kPositive ? u : piece == kNegative ? u * slope : A(0);
        } else {
          u = filtered_phi(u, piece, slope, clamp);
          bits |= piece << (n * 2);
        }
      }
      upsampled[row * sx.middles + first + n] = u;
    }
    if (p.mode == kActivateAndKeep && y < end_y && sx.middle + first < end_x) {
      mask[y * mask_row(p) + (sx.middle + first) / 4] = static_cast<unsigned char>(bits);
    }
  }
}

template <typename A>
PROBES_HD void filtered_narrow(const A* upsampled, const A* taps, A* narrow, const FilteredAxis& ax, const FilteredSpan& sx,
                               const FilteredSpan& sy, int thread, int threads) {
  for (int i = thread; i < sy.middles * sx.outs; i += threads) {
    const A* from = upsampled + i / sx.outs * sx.middles + i % sx.outs * ax.down;
    A sum = 0;
#pragma unroll
    for (int k = 0; k < ax.taps_out; ++k) sum += taps[k] * from[k];
    narrow[i] = sum;
  }
}

template <typename T, typename A>
PROBES_HD void filtered_store(const A* narrow, const A* taps, T* plane, const FilteredAxis& ax, const FilteredAxis& ay,
                              const FilteredSpan& sx, const FilteredSpan& sy, int thread, int threads) {
  for (int i = thread; i < sy.outs * sx.outs; i += threads) {
    const int row = i / sx.outs, column = i % sx.outs, oy = sy.out + row, ox = sx.out + column;
    if (oy >= ay.out || ox >= ax.out) continue;
    const A* from = narrow + row * ay.down * sx.outs + column;
    A sum = 0;
#pragma unroll
    for (int k = 0; k < ay.taps_out; ++k) sum += taps[k] * from[k * sx.outs];
    plane[static_cast<int64_t>(oy) * ax.out + ox] = static_cast<T>(sum);
  }
}

}  // namespace probes
