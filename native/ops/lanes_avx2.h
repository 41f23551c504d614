// lanes.h with AVX2: half a tile at a time, 16-bit sums of vpmaddubsw.
#pragma once

namespace legato::LEGATO_ISA {

inline constexpr int kWidth = 8;
struct Vec {
  __m256 v;
  static Vec zero() { return {_mm256_setzero_ps()}; }
  static Vec splat(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load_partial(const float* p, int n) { return {_mm256_maskload_ps(p, lanes_of((1u << n) - 1u))}; }
  static Vec load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p))}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store_partial(float* p, int n) const { _mm256_maskstore_ps(p, lanes_of((1u << n) - 1u), v); }
};
static inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

struct Four {
  __m256i v;
};
static inline Four broadcast_four(const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, 4);
  return {_mm256_set1_epi32(word)};
}

struct Bytes {
  __m256i v;
  static Bytes load(const uint8_t* p) { return {_mm256_loadu_si256((const __m256i*)p)}; }
};
static inline Bytes low_nibbles(Bytes a) { return {_mm256_and_si256(a.v, _mm256_set1_epi8(15))}; }
static inline Bytes high_nibbles(Bytes a) {
  return {_mm256_and_si256(_mm256_srli_epi16(a.v, 4), _mm256_set1_epi8(15))};
}
template <int kShift, int kMask>
static inline Bytes with_bits(Bytes nibbles, Bytes plane) {
  __m256i moved = plane.v;
  if constexpr (kShift > 0) moved = _mm256_slli_epi16(plane.v, kShift);
  if constexpr (kShift < 0) moved = _mm256_srli_epi16(plane.v, -kShift);
  return {_mm256_or_si256(nibbles.v, _mm256_and_si256(moved, _mm256_set1_epi8(kMask)))};
}
static inline Vec bytes_to_float(const uint8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)))};
}
static inline Vec signed_bytes_to_float(const uint8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)))};
}

template <int kMaxWeight, int kBiasShift>
struct Sum {
  // Products of kSafe vectors fit in 16 bits: two products of at most kMaxWeight * 127 each per vector.
  static constexpr int kSafe = 32767 / (2 * 127 * kMaxWeight);
  static_assert(kSafe == 8 || kSafe == 4 || kSafe == 2, "a group ends with a widened sum");
  __m256i total, part;
  void start(int32_t) { total = _mm256_setzero_si256(); }
  template <int i>
  void dot(Bytes w, Four x) {
    const __m256i pairs = _mm256_maddubs_epi16(w.v, x.v);
    part = i % kSafe == 0 ? pairs : _mm256_add_epi16(part, pairs);
    asm("" : "+x"(part));  // no tree of sums, which would need more registers than there are
    if constexpr (i % kSafe == kSafe - 1) {
      const __m256i sums = _mm256_madd_epi16(part, _mm256_set1_epi16(1));
      total = kSafe == 8 ? sums : _mm256_add_epi32(total, sums);
      asm("" : "+x"(total));
    }
  }
  Vec finish(int32_t minus_sum) {
    if constexpr (kBiasShift >= 0) {
      total = _mm256_add_epi32(total, _mm256_slli_epi32(_mm256_set1_epi32(minus_sum), kBiasShift));
    }
    return {_mm256_cvtepi32_ps(total)};
  }
};
// Q8_0: |w| times x with w's sign, since 255 * 127 * 2 does not fit in 16 bits; 128 * 127 * 2 does.
template <>
struct Sum<255, 7> {
  __m256i total;
  void start(int32_t) {}
  template <int i>
  void dot(Bytes w, Four x) {
    const __m256i weight = _mm256_xor_si256(w.v, _mm256_set1_epi8((char)0x80));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(x.v, weight));
    const __m256i sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    total = i == 0 ? sums : _mm256_add_epi32(total, sums);
    asm("" : "+x"(total));
  }
  Vec finish(int32_t) { return {_mm256_cvtepi32_ps(total)}; }
};

}  // namespace legato::LEGATO_ISA
