// Elementwise operators: gated activations, sums, scaling with a soft cap.
#include "../simd/simd.h"
#include "fill.h"

namespace legato::LEGATO_ISA {
namespace {

inline F32x16 silu(F32x16 x) {
  const F32x16 one = F32x16::splat(1.0f);
  return x / (one + exp(F32x16::zero() - x));
}

// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
inline F32x16 gelu_tanh(F32x16 x) {
  const F32x16 cube = x * x * x;
  const F32x16 inner = F32x16::splat(0.7978845608f) * fma(cube, F32x16::splat(0.044715f), x);
  return x * F32x16::splat(0.5f) * (F32x16::splat(1.0f) + tanh(inner));
}

// 1 - erf(|x|) ~ t (a1 + t (a2 + ...)) e^(-x^2), t = 1 / (1 + p |x|): Abramowitz & Stegun 7.1.26, absolute error
// below 1.5e-7, about one unit in the last place of 1 + erf.
inline F32x16 erf(F32x16 x) {
  const F32x16 one = F32x16::splat(1.0f), magnitude = abs(x);
  const F32x16 t = one / fma(F32x16::splat(0.3275911f), magnitude, one);
  F32x16 p = F32x16::splat(1.061405429f);
  p = fma(p, t, F32x16::splat(-1.453152027f));
  p = fma(p, t, F32x16::splat(1.421413741f));
  p = fma(p, t, F32x16::splat(-0.284496736f));
  p = fma(p, t, F32x16::splat(0.254829592f));
  const F32x16 positive = one - p * t * exp(F32x16::zero() - x * x);
  return select(less(x, F32x16::zero()), F32x16::zero() - positive, positive);
}

// x / 2 * (1 + erf(x / sqrt(2)))
inline F32x16 gelu(F32x16 x) {
  return x * F32x16::splat(0.5f) * (F32x16::splat(1.0f) + erf(x * F32x16::splat(0.7071067812f)));
}

// out = act(gate) * up
template <F32x16 (*act)(F32x16)>
void gated_with(const float* gate, const float* up, float* out, int64_t n) {
  const int64_t whole = n - n % kLanes;
  const int rest = static_cast<int>(n - whole);
  for (int64_t i = 0; i < whole; i += kLanes) (act(F32x16::load(gate + i)) * F32x16::load(up + i)).store(out + i);
  if (rest > 0) {
    const F32x16 v = act(F32x16::load_partial(gate + whole, rest)) * F32x16::load_partial(up + whole, rest);
    v.store_partial(out + whole, rest);
  }
}

void gated(const float* gate, const float* up, float* out, int64_t n, int32_t activation) {
  if (activation == 0) {
    gated_with<silu>(gate, up, out, n);
  } else if (activation == 1) {
    gated_with<gelu_tanh>(gate, up, out, n);
  } else {
    gated_with<gelu>(gate, up, out, n);
  }
}

void add(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] + y[i];
}

void scale(float* x, int64_t n, float factor, float softcap) {
  if (factor != 1.0f) {
    for (int64_t i = 0; i < n; ++i) x[i] = x[i] * factor;
  }
  if (softcap <= 0.0f) return;
  const F32x16 cap = F32x16::splat(softcap);
  const int64_t whole = n - n % kLanes;
  const int rest = static_cast<int>(n - whole);
  for (int64_t i = 0; i < whole; i += kLanes) (cap * tanh(F32x16::load(x + i) / cap)).store(x + i);
  if (rest > 0) (cap * tanh(F32x16::load_partial(x + whole, rest) / cap)).store_partial(x + whole, rest);
}

}  // namespace

void fill_activation(Kernels& table) {
  table.gated = gated;
  table.add = add;
  table.scale = scale;
}

}  // namespace legato::LEGATO_ISA
