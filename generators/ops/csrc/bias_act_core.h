// The arithmetic of bias_act, shared by the CUDA kernels and the CPU op.
//
//   forward   y  = clamp(gain · act(x + b), ±clamp)
//   gradient  dx = dy · gain · act'(u) where |y| < clamp, else 0,   u = x + b
//
// The gradient reads one reference: y itself wherever act' can be written in terms of act (all but swish), so that
// nothing but the output has to be kept; x for swish.
#pragma once
#include <cmath>

#include "portable.h"

namespace probes {

enum Activation : int { kLinear, kRelu, kLrelu, kTanh, kSigmoid, kElu, kSelu, kSoftplus, kSwish, kActivations };

struct BiasActParams {
  int64_t size;       // elements, in memory order
  int64_t bias_step;  // element i takes bias[(i / bias_step) % bias_size]
  int64_t bias_size;  // 0: no bias
  int activation;
  double alpha, gain, clamp;  // clamp < 0: none; already rounded to the tensor's type
};

constexpr double kSeluScale = 1.0507009873554804934193349852946;
constexpr double kSeluAlpha = 1.6732632423543772848170429916717;

template <typename A> PROBES_HD A sigmoid(A u) {
  const A e = std::exp(u < 0 ? u : -u);  // never overflows
  return (u < 0 ? e : A(1)) / (A(1) + e);
}

template <int ACT, typename A> PROBES_HD A activate(A u, A alpha) {
  switch (ACT) {
    case kRelu: return u < 0 ? A(0) : u;
    case kLrelu: return u < 0 ? u * alpha : u;
    case kTanh: return std::tanh(u);
    case kSigmoid: return sigmoid(u);
    case kElu: return u < 0 ? std::expm1(u) : u;
    case kSelu: return A(kSeluScale) * (u < 0 ? A(kSeluAlpha) * std::expm1(u) : u);
    case kSoftplus: return (u > 0 ? u : A(0)) + std::log1p(std::exp(u > 0 ? -u : u));
    case kSwish: return u * sigmoid(u);
    default: return u;
  }
}

// act'(u), where r = act(u), and r = u for swish.
template <int ACT, typename A> PROBES_HD A slope(A r, A alpha) {
  switch (ACT) {
    case kRelu: return r > 0 ? A(1) : A(0);
    case kLrelu: return r > 0 ? A(1) : alpha;
    case kTanh: return A(1) - r * r;
    case kSigmoid: return r * (A(1) - r);
    case kElu: return r > 0 ? A(1) : r + A(1);
    case kSelu: return r > 0 ? A(kSeluScale) : r + A(kSeluScale * kSeluAlpha);
    case kSoftplus: return -std::expm1(-r);
    case kSwish: { const A s = sigmoid(r); return s * (A(1) + r * (A(1) - s)); }
    default: return A(1);
  }
}

template <int ACT, typename A> PROBES_HD A bias_act_forward(A x, A b, A alpha, A gain, A clamp) {
  const A y = activate<ACT, A>(x + b, alpha) * gain;
  if (clamp < 0) return y;
  return y > clamp ? clamp : (y < -clamp ? -clamp : y);  // written so that NaN stays NaN
}

template <int ACT, typename A> PROBES_HD A bias_act_gradient(A dy, A reference, A b, A alpha, A gain, A clamp) {
  const A r = ACT == kSwish ? reference + b : reference / gain;
  const A y = ACT == kSwish ? activate<ACT, A>(r, alpha) * gain : reference;
  if (clamp >= 0 && !(y < clamp && y > -clamp)) return A(0);
  return dy * gain * slope<ACT, A>(r, alpha);
}

PROBES_HD int64_t bias_index(const BiasActParams& p, int64_t i) { return (i / p.bias_step) % p.bias_size; }

}  // namespace probes
