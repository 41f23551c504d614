// lanes.h with AVX-512: vpdpbusd where there is VNNI, else 16-bit sums of vpmaddubsw.
#pragma once

namespace legato::LEGATO_ISA {

inline constexpr int kWidth = 16;
using Vec = F32x16;
struct Four {
  __m512i v;
};
static inline Four broadcast_four(const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, 4);
  return {_mm512_set1_epi32(word)};
}

struct Bytes {
  __m512i v;
  static Bytes load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
};
static inline Bytes low_nibbles(Bytes a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
static inline Bytes high_nibbles(Bytes a) {
  return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))};
}
// nibbles | (plane shifted left by kShift (negative: right) & kMask)
template <int kShift, int kMask>
static inline Bytes with_bits(Bytes nibbles, Bytes plane) {
  __m512i moved = plane.v;
  if constexpr (kShift > 0) moved = _mm512_slli_epi16(plane.v, kShift);
  if constexpr (kShift < 0) moved = _mm512_srli_epi16(plane.v, -kShift);
  return {_mm512_ternarylogic_epi64(nibbles.v, moved, _mm512_set1_epi8(kMask), 0xf8)};  // a | (b & c)
}
static inline Vec bytes_to_float(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
static inline Vec signed_bytes_to_float(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}

#if defined(__AVX512VNNI__)
template <int kMaxWeight, int kBiasShift>
struct Sum {
  __m512i total;
  void start(int32_t minus_sum) {
    if constexpr (kBiasShift >= 0) {
      total = _mm512_slli_epi32(_mm512_set1_epi32(minus_sum), (unsigned)kBiasShift);
    } else {
      total = _mm512_setzero_si512();
    }
  }
  template <int i>
  void dot(Bytes w, Four x) {
    total = _mm512_dpbusd_epi32(total, w.v, x.v);
  }
  Vec finish(int32_t) { return {_mm512_cvtepi32_ps(total)}; }
};
#else
template <int kMaxWeight, int kBiasShift>
struct Sum {
  // Products of kSafe vectors fit in 16 bits: two products of at most kMaxWeight * 127 each per vector.
  static constexpr int kSafe = 32767 / (2 * 127 * kMaxWeight);
  static_assert(kSafe == 8 || kSafe == 4 || kSafe == 2, "a group ends with a widened sum");
  __m512i total, part;
  void start(int32_t) { total = _mm512_setzero_si512(); }
  template <int i>
  void dot(Bytes w, Four x) {
    const __m512i pairs = _mm512_maddubs_epi16(w.v, x.v);
    part = i % kSafe == 0 ? pairs : _mm512_add_epi16(part, pairs);
    asm("" : "+v"(part));  // no tree of sums, which would need more registers than there are
    if constexpr (i % kSafe == kSafe - 1) {
      const __m512i sums = _mm512_madd_epi16(part, _mm512_set1_epi16(1));
      total = kSafe == 8 ? sums : _mm512_add_epi32(total, sums);
      asm("" : "+v"(total));
    }
  }
  Vec finish(int32_t minus_sum) {
    if constexpr (kBiasShift >= 0) {
      total = _mm512_add_epi32(total, _mm512_slli_epi32(_mm512_set1_epi32(minus_sum), kBiasShift));
    }
    return {_mm512_cvtepi32_ps(total)};
  }
};
// Q8_0: |w| times x with w's sign, since 255 * 127 * 2 does not fit in 16 bits; 128 * 127 * 2 does.
template <>
struct Sum<255, 7> {
  __m512i total;
  void start(int32_t) {}
  template <int i>
  void dot(Bytes w, Four x) {
    const __m512i weight = _mm512_xor_si512(w.v, _mm512_set1_epi8((char)0x80));
    const __m512i signed_x = _mm512_mask_sub_epi8(x.v, _mm512_movepi8_mask(weight), _mm512_setzero_si512(), x.v);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(weight), signed_x);
    const __m512i sums = _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
    total = i == 0 ? sums : _mm512_add_epi32(total, sums);
    asm("" : "+v"(total));
  }
  Vec finish(int32_t) { return {_mm512_cvtepi32_ps(total)}; }
};
#endif

}  // namespace legato::LEGATO_ISA
