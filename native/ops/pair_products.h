// Products of pairs of bf16 numbers, as vdpbf16ps takes them: of a pair first the odd one.
//
// A line is 16 pairs, 64 bytes. Where the instruction is not there, a pair's products are taken one after the other, as
// floats; the bits are the same (numbers below the smallest normal float, 1e-38, the instruction takes as zero).
#pragma once
#include "../simd/across.h"
#include "../simd/simd.h"

namespace legato::LEGATO_ISA {
namespace {

constexpr int kLine = 32;  // elements

constexpr int32_t kOdd = (int32_t)0xffff0000, kEven = 0xffff, kBoth = -1;

// A pair's products are taken in kTurns turns. Narrow: how queries and weights lie on the desk.
#if defined(__AVX512BF16__)
constexpr int kTurns = 1;
using Narrow = uint16_t;
struct Factor {
  __m512i v;
  static Factor load(const uint16_t* p, int) { return {_mm512_loadu_si512(p)}; }
  static Factor splat(const Narrow* p, int) {
    int32_t both;
    __builtin_memcpy(&both, p, 4);
    return {_mm512_set1_epi32(both)};
  }
  Factor only(int32_t halves, int) const { return {_mm512_and_si512(v, _mm512_set1_epi32(halves))}; }
};
inline F32x16 add_products(F32x16 sum, Factor a, Factor b) {
  // Not the intrinsic: GCC 12 would copy sums between registers and memory, which takes twice as long.
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));
  return sum;
}
// x * 2^n for whole n; what is not normal counts as zero where it goes to.
inline F32x16 scaled(F32x16 x, F32x16 n) { return {_mm512_scalef_ps(x.v, n.v)}; }
// Stores 32 weights rounded; the sum takes them in.
inline F32x16 add_weights(F32x16 sum, F32x16 a, F32x16 b, Narrow* p) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b.v, a.v);
  _mm512_storeu_si512(p, both);
  return add_products(sum, {both}, {_mm512_set1_epi32(0x3f803f80)});  // pairs of one
}
// The bf16 pairs of 16 numbers, every `stride`-th of `to`; the first n numbers.
inline void scatter_pairs(F32x16 x, int n, int stride, Narrow* to) {
  alignas(32) uint32_t pairs[8];
  _mm256_store_si256((__m256i*)pairs, (__m256i)_mm512_cvtneps_pbh(x.v));
  for (int i = 0; 2 * i < n; ++i, to += 2 * stride) __builtin_memcpy(to, pairs + i, 4);
}
#else
constexpr int kTurns = 2;  // the odd ones, then the even ones
using Narrow = float;
struct Factor {
  F32x16 v;
  static Factor load(const uint16_t* p, int turn) {
    const I32x16 pairs = I32x16::load((const int32_t*)p);
    return {bits_to_float(turn == 0 ? pairs & I32x16::splat(kOdd) : shift_left<16>(pairs))};
  }
  static Factor splat(const Narrow* p, int turn) { return {F32x16::splat(p[1 - turn])}; }
  Factor only(int32_t halves, int turn) const {
    return halves & (turn == 0 ? kOdd : kEven) ? *this : Factor{F32x16::zero()};
  }
};
inline F32x16 add_products(F32x16 sum, Factor a, Factor b) { return fma(a.v, b.v, sum); }
inline F32x16 scaled(F32x16 x, F32x16 n) { return x * bits_to_float(shift_left<23>(to_int(n) + I32x16::splat(127))); }
inline F32x16 add_weights(F32x16 sum, F32x16 a, F32x16 b, Narrow* p) {
  a = round_to_bf16(a), b = round_to_bf16(b);
  a.store(p);
  b.store(p + 16);
  return sum + odds(a, b) + evens(a, b);
}
inline void scatter_pairs(F32x16 x, int n, int stride, Narrow* to) {
  alignas(64) float part[16];
  round_to_bf16(x).store(part);
  for (int i = 0; i < n; i += 2, to += 2 * stride) {
    to[0] = part[i];
    to[1] = part[i + 1];
  }
}
#endif

#if defined(__AVX2__) && !defined(__AVX512F__)
// One number of each of the 8 pairs of half a line. The lower halves of what was held before are zero as well, and
// serve as zeros.
struct HalfLine {
  __m256i held = _mm256_setzero_si256();
  void take(const uint16_t* p, int turn) {
    const __m256i_u& pairs = *(const __m256i_u*)p;
    if (turn == 0) {
      asm volatile("vpblendw $0xaa, %1, %0, %0" : "+x"(held) : "m"(pairs));
    } else {
      asm volatile("vmovdqu %1, %0\n\tvpslld $16, %0, %0" : "=x"(held) : "m"(pairs));
    }
  }
};
#endif

// Adds products of N lines with a pair of each of NQ queries: sum[i][j] += line(j) * of(i), pair by pair.
template <int NQ, int N>
class LineProducts {
 public:
  template <class Line, class Of>
  [[gnu::always_inline]] inline void add(F32x16 (&sum)[NQ][N], const Line& line, const Of& of) {
#pragma GCC unroll 2
    for (int turn = 0; turn < kTurns; ++turn) add_turn(sum, line, of, turn);
  }

 private:
#if defined(__AVX2__) && !defined(__AVX512F__)
  // Of sixteen registers the sums take up to twelve. What is beside them is counted here, in an order that is kept: GCC
  // would use more, and copy sums between registers and memory, which takes up to twice as long.
  template <class Line, class Of>
  [[gnu::always_inline]] inline void add_turn(F32x16 (&sum)[NQ][N], const Line& line, const Of& of, int turn) {
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      lo_.take(line(j), turn);
      hi_.take(line(j) + kLine / 2, turn);
#pragma GCC unroll 6
      for (int i = 0; i < NQ; ++i) {
        __m256 x;
        asm volatile(
            "vbroadcastss %[factor], %[x]\n\t"
            "vfmadd231ps %[lo], %[x], %[sum_lo]\n\t"
            "vfmadd231ps %[hi], %[x], %[sum_hi]"
            : [sum_lo] "+x"(sum[i][j].lo), [sum_hi] "+x"(sum[i][j].hi), [x] "=&x"(x)
            : [factor] "m"(of(i)[1 - turn]), [lo] "x"(lo_.held), [hi] "x"(hi_.held));
      }
    }
  }

  HalfLine lo_, hi_;
#else
  template <class Line, class Of>
  [[gnu::always_inline]] inline void add_turn(F32x16 (&sum)[NQ][N], const Line& line, const Of& of, int turn) {
    // What there is less of is held, the other passes by.
    if constexpr (NQ < N) {
      Factor x[NQ];
#pragma GCC unroll 12
      for (int i = 0; i < NQ; ++i) x[i] = Factor::splat(of(i), turn);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) {
        const Factor pairs = Factor::load(line(j), turn);
#pragma GCC unroll 12
        for (int i = 0; i < NQ; ++i) sum[i][j] = add_products(sum[i][j], x[i], pairs);
      }
    } else {
      Factor pairs[N];
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) pairs[j] = Factor::load(line(j), turn);
#pragma GCC unroll 12
      for (int i = 0; i < NQ; ++i) {
        const Factor x = Factor::splat(of(i), turn);
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) sum[i][j] = add_products(sum[i][j], x, pairs[j]);
      }
    }
  }
#endif
};

}  // namespace
}  // namespace legato::LEGATO_ISA
