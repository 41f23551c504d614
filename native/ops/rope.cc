// Rotary position embedding of one head, in place.
#include "../simd/simd.h"
#include "fill.h"

namespace legato::LEGATO_ISA {
namespace {

// (a, b) -> (a cos - b sin, b cos + a sin). One multiplication, then one fused multiply-add, in every path.
inline F32x16 rotate_first(F32x16 a, F32x16 b, F32x16 c, F32x16 s) { return fma(a, c, F32x16::zero() - b * s); }
inline F32x16 rotate_second(F32x16 a, F32x16 b, F32x16 c, F32x16 s) { return fma(b, c, a * s); }

// Pairs (i, i + half).
void rotate_halves(float* x, const float* cos, const float* sin, int half) {
  for (int i = 0; i < half; i += kLanes) {
    const int n = half - i < kLanes ? half - i : kLanes;
    const F32x16 a = F32x16::load_partial(x + i, n), b = F32x16::load_partial(x + half + i, n);
    const F32x16 c = F32x16::load_partial(cos + i, n), s = F32x16::load_partial(sin + i, n);
    rotate_first(a, b, c, s).store_partial(x + i, n);
    rotate_second(a, b, c, s).store_partial(x + half + i, n);
  }
}

// Pairs (2i, 2i + 1): separated into lanes, rotated, put back.
void rotate_pairs(float* x, const float* cos, const float* sin, int half) {
  for (int i = 0; i < half; i += kLanes) {
    const int n = half - i < kLanes ? half - i : kLanes;
    float even[kLanes] = {}, odd[kLanes] = {};
    for (int j = 0; j < n; ++j) {
      even[j] = x[2 * (i + j)];
      odd[j] = x[2 * (i + j) + 1];
    }
    const F32x16 a = F32x16::load(even), b = F32x16::load(odd);
    const F32x16 c = F32x16::load_partial(cos + i, n), s = F32x16::load_partial(sin + i, n);
    rotate_first(a, b, c, s).store(even);
    rotate_second(a, b, c, s).store(odd);
    for (int j = 0; j < n; ++j) {
      x[2 * (i + j)] = even[j];
      x[2 * (i + j) + 1] = odd[j];
    }
  }
}

void rope(float* x, const float* cos, const float* sin, int32_t rotary_dim, bool interleaved) {
  if (interleaved) {
    rotate_pairs(x, cos, sin, rotary_dim / 2);
  } else {
    rotate_halves(x, cos, sin, rotary_dim / 2);
  }
}

}  // namespace

void fill_rope(Kernels& table) { table.rope = rope; }

}  // namespace legato::LEGATO_ISA
