// Root-mean-square norm of one row or one head.
#include "../simd/simd.h"
#include "fill.h"

namespace legato::LEGATO_ISA {
namespace {

// Correctly rounded on every instruction set; no errno branch (-fno-math-errno).
inline float square_root(float x) { return __builtin_sqrtf(x); }

// out = x / sqrt(mean(x^2) + eps) * weight. Sum of squares: 16 lanes ascending, then reduce_add; lanes beyond n add
// zero. out may be x.
void rms_norm(const float* x, const float* weight, float* out, int64_t n, float eps) {
  const int64_t whole = n - n % kLanes;
  const int rest = static_cast<int>(n - whole);
  F32x16 sum = F32x16::zero();
  for (int64_t i = 0; i < whole; i += kLanes) {
    const F32x16 v = F32x16::load(x + i);
    sum = fma(v, v, sum);
  }
  if (rest > 0) {
    const F32x16 v = F32x16::load_partial(x + whole, rest);
    sum = fma(v, v, sum);
  }
  const float mean = reduce_add(sum) / static_cast<float>(n);
  const F32x16 factor = F32x16::splat(1.0f / square_root(mean + eps));
  for (int64_t i = 0; i < whole; i += kLanes) (F32x16::load(x + i) * factor * F32x16::load(weight + i)).store(out + i);
  if (rest > 0) {
    const F32x16 v = F32x16::load_partial(x + whole, rest) * factor * F32x16::load_partial(weight + whole, rest);
    v.store_partial(out + whole, rest);
  }
}

}  // namespace

void fill_norm(Kernels& table) { table.rms_norm = rms_norm; }

}  // namespace legato::LEGATO_ISA
