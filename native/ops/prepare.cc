// Input rows in the form that a matrix product wants: float, bf16, or groups of 8-bit integers with a scale.
#include "../simd/across.h"
#include "matmul.h"

namespace legato::LEGATO_ISA {
namespace {

// 32 integers that fit in bytes. _mm512_cvtsepi32_epi8 twice would be four shuffles.
inline void store_bytes(I32x16 a, I32x16 b, int8_t* out) {
#if defined(__AVX512F__)
  const __m512i pairs = _mm512_packs_epi32(a.v, b.v);
  const __m256i bytes = _mm256_packs_epi16(_mm512_castsi512_si256(pairs), _mm512_extracti64x4_epi64(pairs, 1));
  const __m256i order = _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7);
  _mm256_storeu_si256((__m256i*)out, _mm256_permutevar8x32_epi32(bytes, order));
#elif defined(__AVX2__)
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a.lo, a.hi), _mm256_packs_epi32(b.lo, b.hi));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256((__m256i*)out, _mm256_permutevar8x32_epi32(bytes, order));
#else
  int32_t wide[32];
  a.store(wide);
  b.store(wide + 16);
  for (int i = 0; i < 32; ++i) out[i] = (int8_t)wide[i];
#endif
}

// Up to sixteen groups of 32 floats, which may belong to several rows.
struct Sixteen {
  const float* x[16];
  Q8Group* out[16];
  int count;
};

// Integers in [-127, 127] and what belongs to them (packed.h). What there is once for a group is computed for all of
// them at once, a group in each lane; a lane without a group is zero.
void quantise(const Sixteen& groups) {
  const I32x16 zero = I32x16::splat(0), magnitude = I32x16::splat(0x7fffffff);
  I32x16 peak[16], low[16], all[16];
  for (int g = groups.count; g < 16; ++g) peak[g] = low[g] = all[g] = zero;
  for (int g = 0; g < groups.count; ++g) {
    // Magnitudes compare as their bits do, and NaN is larger than infinity, which is larger than all others.
    const I32x16 a = float_to_bits(F32x16::load(groups.x[g])), b = float_to_bits(F32x16::load(groups.x[g] + 16));
    peak[g] = larger(a & magnitude, b & magnitude);
  }
  const F32x16 largest = bits_to_float(fold_lanes<Largest>(peak)), range = F32x16::splat(127.0f);
  const Mask16 finite = less(largest, F32x16::splat(__builtin_inff()));
  const Mask16 some = (Mask16)(less(F32x16::splat(0x1p-100f), largest) & finite);
  alignas(64) float inverse[16], scales[16], scaled_sums[16];
  alignas(64) int32_t minus_sums[16], minus_sums_low[16];
  select(some, range / largest, F32x16::zero()).store(inverse);
  const F32x16 scale = select(some, largest / range, F32x16::zero());

  for (int g = 0; g < groups.count; ++g) {
    const F32x16 by = F32x16::splat(inverse[g]);
    const I32x16 a = to_int(F32x16::load(groups.x[g]) * by), b = to_int(F32x16::load(groups.x[g] + 16) * by);
    store_bytes(a, b, groups.out[g]->values);
    low[g] = a;
    all[g] = a + b;
  }
  const I32x16 sum = fold_lanes<Total>(all);
  scale.store(scales);
  (scale * to_float(sum)).store(scaled_sums);
  (zero - sum).store(minus_sums);
  (zero - fold_lanes<Total>(low)).store(minus_sums_low);
  for (int g = 0; g < groups.count; ++g) {
    Q8Group* out = groups.out[g];
    if (finite >> g & 1) {
      out->scale = scales[g];
      out->scaled_sum = scaled_sums[g];
      out->minus_sum = minus_sums[g];
      out->minus_sum_low = minus_sums_low[g];
    } else {  // integers cannot say NaN, the scale can
      *out = {{}, __builtin_nanf(""), __builtin_nanf(""), 0, 0};
    }
  }
}

void prepare_q8(const float* x, int64_t stride, int64_t rows, int64_t columns, uint8_t* out, int64_t bytes) {
  Sixteen groups;
  groups.count = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < columns / 32; ++g) {
      groups.x[groups.count] = x + r * stride + 32 * g;
      groups.out[groups.count] = (Q8Group*)(out + r * bytes) + g;
      if (++groups.count < 16) continue;
      quantise(groups);
      groups.count = 0;
    }
  }
  if (groups.count > 0) quantise(groups);
}

void prepare_f32(const float* x, int64_t columns, int64_t padded, uint8_t* out) {
  __builtin_memcpy(out, x, (size_t)columns * 4);
  __builtin_memset(out + columns * 4, 0, (size_t)(padded - columns * 4));
}

// To nearest even; NaN stays NaN.
inline uint16_t bf16_bits(float f) {
  uint32_t bits;
  __builtin_memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void prepare_bf16(const float* x, int64_t columns, int64_t padded, uint8_t* out) {
  uint16_t* to = (uint16_t*)out;
  int64_t k = 0;
#if defined(__AVX512BF16__)
  for (; k + 16 <= columns; k += 16) {
    const __m256bh narrow16 = _mm512_cvtneps_pbh(_mm512_loadu_ps(x + k));
    __builtin_memcpy(to + k, &narrow16, 32);
  }
#endif
  for (; k < columns; ++k) to[k] = bf16_bits(x[k]);
  __builtin_memset(to + columns, 0, (size_t)(padded - columns * 2));
}

}  // namespace

size_t row_bytes(RowForm form, int64_t columns) {
  int64_t bytes = columns * 4;
  if (form == RowForm::BF16) bytes = columns * 2;
  if (form == RowForm::Q8) bytes = columns / 32 * (int64_t)sizeof(Q8Group);
  bytes = (bytes + 63) / 64 * 64;
  return (size_t)(bytes % 1024 == 0 ? bytes + 64 : bytes);  // rows at 4 KiB strides would share cache sets
}

void prepare_rows(RowForm form, const float* x, int64_t stride, int64_t rows, int64_t columns, void* out) {
  const int64_t bytes = (int64_t)row_bytes(form, columns);
  uint8_t* to = (uint8_t*)out;
  if (form == RowForm::Q8) return prepare_q8(x, stride, rows, columns, to, bytes);
  for (int64_t r = 0; r < rows; ++r, x += stride, to += bytes) {
    if (form == RowForm::BF16) {
      prepare_bf16(x, columns, bytes, to);
    } else {
      prepare_f32(x, columns, bytes, to);
    }
  }
}

}  // namespace legato::LEGATO_ISA
