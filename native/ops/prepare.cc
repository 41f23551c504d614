// Input rows in the form that a matrix product wants: float, bf16, or groups of 8-bit integers with a scale.
#include "matmul.h"

namespace legato::LEGATO_ISA {
namespace {

struct Sixteen {
  int8_t v[16];
};

inline Sixteen narrow(I32x16 a) {
  Sixteen s;
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i*)s.v, _mm512_cvtsepi32_epi8(a.v));
#else
  int32_t wide[16];
  a.store(wide);
  for (int i = 0; i < 16; ++i) s.v[i] = (int8_t)(wide[i] < -127 ? -127 : wide[i] > 127 ? 127 : wide[i]);
#endif
  return s;
}

// 32 floats -> integers in [-127, 127] (packed.h). The same bits on every instruction set.
inline void quantise_group(const float* x, Q8Group* out) {
  const F32x16 a = F32x16::load(x), b = F32x16::load(x + 16);
  const F32x16 infinity = F32x16::splat(__builtin_inff());
  if ((less(abs(a), infinity) & less(abs(b), infinity)) != 0xffff) {  // integers cannot say NaN, the scale can
    *out = {{}, __builtin_nanf(""), __builtin_nanf(""), 0, 0};
    return;
  }
  const float largest = reduce_max(max(abs(a), abs(b)));
  const bool zero = !(largest > 0x1p-100f);
  const float inverse = zero ? 0.0f : 127.0f / largest;
  const float scale = zero ? 0.0f : largest / 127.0f;
  const F32x16 by = F32x16::splat(inverse);
  const I32x16 qa = to_int(a * by), qb = to_int(b * by);
  const Sixteen low = narrow(qa), high = narrow(qb);
  __builtin_memcpy(out->values, low.v, 16);
  __builtin_memcpy(out->values + 16, high.v, 16);
  // Sums of 16 small integers are exact in float, in any order.
  const int32_t sum_low = (int32_t)reduce_add(to_float(qa)), sum_high = (int32_t)reduce_add(to_float(qb));
  out->scale = scale;
  out->scaled_sum = scale * (float)(sum_low + sum_high);
  out->minus_sum = -(sum_low + sum_high);
  out->minus_sum_low = -sum_low;
}

void prepare_q8(const float* x, int64_t columns, uint8_t* out) {
  Q8Group* groups = (Q8Group*)out;
  for (int64_t g = 0; g < columns / 32; ++g) quantise_group(x + 32 * g, groups + g);
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
  for (int64_t r = 0; r < rows; ++r, x += stride, to += bytes) {
    if (form == RowForm::Q8) {
      prepare_q8(x, columns, to);
    } else if (form == RowForm::BF16) {
      prepare_bf16(x, columns, bytes, to);
    } else {
      prepare_f32(x, columns, bytes, to);
    }
  }
}

}  // namespace legato::LEGATO_ISA
