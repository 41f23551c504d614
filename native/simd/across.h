// Sixteen vectors folded across their lanes at once: lane i of the result is the fold of all lanes of v[i].
//   fold_lanes<Largest>(v)   fold_lanes<Total>(v)
// Integers, so that the order does not matter and every instruction set has the same bits. A tree over pairs of vectors
// costs 15 folds and 30 shuffles for the sixteen, a third of folding each for itself.
#pragma once
#include "simd.h"

namespace legato::LEGATO_ISA {

struct Largest {
  static int32_t fold(int32_t a, int32_t b) { return a > b ? a : b; }
#if defined(__AVX2__)
  static __m256i fold(__m256i a, __m256i b) { return _mm256_max_epi32(a, b); }
#endif
#if defined(__AVX512F__)
  static __m512i fold(__m512i a, __m512i b) { return _mm512_max_epi32(a, b); }
#endif
};

struct Total {
  static int32_t fold(int32_t a, int32_t b) { return a + b; }
#if defined(__AVX2__)
  static __m256i fold(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
#endif
#if defined(__AVX512F__)
  static __m512i fold(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }
#endif
};

// Of floats: each vector for itself, or sixteen in the same order and so with the same bits.
struct LargestFloat {
  static float reduce(F32x16 x) { return reduce_max(x); }
#if defined(__AVX512F__)
  static __m512i fold(__m512i a, __m512i b) {
    return _mm512_castps_si512(_mm512_max_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)));
  }
#endif
};

struct TotalFloat {
  static float reduce(F32x16 x) { return reduce_add(x); }
#if defined(__AVX512F__)
  static __m512i fold(__m512i a, __m512i b) {
    return _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)));
  }
#endif
};

#if defined(__AVX512F__)

inline __m512i bits_of(I32x16 x) { return x.v; }
inline __m512i bits_of(F32x16 x) { return _mm512_castps_si512(x.v); }

template <class Op, class Vector>
inline __m512i fold_sixteen(const Vector (&v)[16]) {
  __m512i a[8], b[4], c[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {  // halves: v[i], v[i + 8]
    a[i] = Op::fold(_mm512_shuffle_i64x2(bits_of(v[i]), bits_of(v[i + 8]), 0x44),
                    _mm512_shuffle_i64x2(bits_of(v[i]), bits_of(v[i + 8]), 0xee));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // quarters: v[i], v[i + 8], v[i + 4], v[i + 12]
    b[i] = Op::fold(_mm512_shuffle_i64x2(a[i], a[i + 4], 0x88), _mm512_shuffle_i64x2(a[i], a[i + 4], 0xdd));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    c[i] = Op::fold(_mm512_unpacklo_epi64(b[i], b[i + 2]), _mm512_unpackhi_epi64(b[i], b[i + 2]));
  }
  const __m512 first = _mm512_castsi512_ps(c[0]), second = _mm512_castsi512_ps(c[1]);
  const __m512i last = Op::fold(_mm512_castps_si512(_mm512_shuffle_ps(first, second, 0x88)),
                                _mm512_castps_si512(_mm512_shuffle_ps(first, second, 0xdd)));
  const __m512i ordered = _mm512_shuffle_epi32(last, (_MM_PERM_ENUM)0xd8);  // 0 2 1 3 -> 0 1 2 3 in each quarter
  return _mm512_shuffle_i64x2(ordered, ordered, 0xd8);
}
template <class Op>
inline I32x16 fold_lanes(const I32x16 (&v)[16]) {
  return {fold_sixteen<Op>(v)};
}
template <class Op>
inline F32x16 fold_lanes(const F32x16 (&v)[16]) {
  return {_mm512_castsi512_ps(fold_sixteen<Op>(v))};
}

#elif defined(__AVX2__)

template <class Op>
inline __m256i fold_eight(const I32x16* v) {
  __m256i a[4], b[2];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // halves: v[i], v[i + 4]
    const __m256i x = Op::fold(v[i].lo, v[i].hi), y = Op::fold(v[i + 4].lo, v[i + 4].hi);
    a[i] = Op::fold(_mm256_permute2x128_si256(x, y, 0x20), _mm256_permute2x128_si256(x, y, 0x31));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    b[i] = Op::fold(_mm256_unpacklo_epi64(a[i], a[i + 2]), _mm256_unpackhi_epi64(a[i], a[i + 2]));
  }
  const __m256 first = _mm256_castsi256_ps(b[0]), second = _mm256_castsi256_ps(b[1]);
  const __m256i last = Op::fold(_mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88)),
                                _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xdd)));
  return _mm256_shuffle_epi32(last, 0xd8);
}

template <class Op>
inline I32x16 fold_lanes(const I32x16 (&v)[16]) {
  return {fold_eight<Op>(v), fold_eight<Op>(v + 8)};
}

#else

template <class Op>
inline I32x16 fold_lanes(const I32x16 (&v)[16]) {
  int32_t folded[16];
  for (int i = 0; i < 16; ++i) {
    int32_t lanes[16];
    v[i].store(lanes);
    folded[i] = lanes[0];
    for (int l = 1; l < 16; ++l) folded[i] = Op::fold(folded[i], lanes[l]);
  }
  return I32x16::load(folded);
}

#endif

inline I32x16 larger(I32x16 a, I32x16 b) {
#if defined(__AVX512F__)
  return {Largest::fold(a.v, b.v)};
#elif defined(__AVX2__)
  return {Largest::fold(a.lo, b.lo), Largest::fold(a.hi, b.hi)};
#else
  I32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = Largest::fold(a.v[i], b.v[i]);
  return r;
#endif
}

}  // namespace legato::LEGATO_ISA
