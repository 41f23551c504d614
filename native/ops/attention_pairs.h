// Attention over a bf16 cache: products of two neighbouring dimensions (keys) or positions (values) at once, as
// vdpbf16ps takes them.
//
// Numeric definition, the same bits on every instruction set, for any tile of registers and number of rows:
//   query: scaled, then rounded to bf16; a score is one chain of fused multiply-adds over pairs of dimensions,
//   ascending, of a pair first the odd one, as the instruction does it; weights are rounded to bf16, and their sum is
//   that of the rounded ones; the value of a dimension within a tile is one such chain over the pairs of positions of
//   which the row sees any, starting from zero.
// Of a pair that a row sees half of, the other half counts as zero times zero, so that whatever bytes lie there cannot
// reach the result. (Numbers below the smallest normal float, 1e-38, the instruction takes as zero.)
#pragma once
#include "attention_kernels.h"

namespace legato::LEGATO_ISA {
namespace {

struct BrainElement {
  using Raw = uint16_t;
  static constexpr Products kProducts = Products::Pairs;
};

constexpr int32_t kOdd = (int32_t)0xffff0000, kEven = 0xffff, kBoth = -1;

inline F32x16 round_to_bf16(F32x16 x) {  // to nearest even; a NaN stays one
  const I32x16 bits = float_to_bits(x);
  const I32x16 up = bits + I32x16::splat(0x7fff) + (shift_right<16>(bits) & I32x16::splat(1));
  return select(equal(x, x), bits_to_float(up & I32x16::splat(kOdd)), F32x16::splat(__builtin_nanf("")));
}

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
inline Narrow narrow(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return (Narrow)(bits >> 16);
}
// Stores 16 weights (0 or normal, and no NaN that matters), rounded; returns them.
inline F32x16 store_rounded(F32x16 x, Narrow* p) {
  const __m256i narrow = (__m256i)_mm512_cvtneps_pbh(x.v);
  _mm256_storeu_si256((__m256i*)p, narrow);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16))};
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
inline Narrow narrow(float x) { return x; }
inline F32x16 store_rounded(F32x16 x, Narrow* p) {
  const F32x16 rounded = round_to_bf16(x);
  rounded.store(p);
  return rounded;
}
#endif

// 2^x for x <= 0 as exp2_negative, relative error < 4e-6: it is rounded to bf16, which loses 4e-3. Coefficients: of the
// least largest relative error on [-0.5, 0.5], with 1 at 0.
inline F32x16 exp2_coarse(F32x16 x) {
  const F32x16 n = round(x), r = x - n;
  F32x16 p = F32x16::splat(9.58285e-3f);
  p = fma(p, r, F32x16::splat(5.590643e-2f));
  p = fma(p, r, F32x16::splat(2.4024099e-1f));
  p = fma(p, r, F32x16::splat(6.9312419e-1f));
  p = fma(p, r, F32x16::splat(1.0f));
  const F32x16 scale = bits_to_float(shift_left<23>(to_int(n) + I32x16::splat(127)));
  return select(less(x, F32x16::splat(-126.0f)), F32x16::zero(), p * scale);
}

// One scaled query into every `stride`-th pair of `to`; an odd head_dim is filled up with zero.
inline void narrow_query(const float* x, int head_dim, float scale, int stride, Narrow* to) {
  for (int d = 0; d < head_dim; d += 16) {
    const int n = head_dim - d < 16 ? head_dim - d : 16;
    alignas(64) float part[16];
    round_to_bf16(F32x16::load_partial(x + d, n) * F32x16::splat(scale)).store(part);
    for (int i = 0; i < n; i += 2, to += 2 * stride) {
      to[0] = narrow(part[i]);
      to[1] = narrow(part[i + 1]);
    }
  }
}

// Scores of NQ queries, [pairs][NQ][2], for NB blocks of a tile.
template <int NQ, int NB>
inline void score_pairs(const TileBlocks<BrainElement>& tile, int block, const Narrow* q, int pairs, float* scores) {
  F32x16 sum[NQ][NB];
  for (int i = 0; i < NQ; ++i) {
    for (int b = 0; b < NB; ++b) sum[i][b] = F32x16::zero();
  }
  for (int p = 0; p < pairs; ++p, q += 2 * NQ) {
#pragma GCC unroll 2
    for (int turn = 0; turn < kTurns; ++turn) {
      Factor key[NB];
#pragma GCC unroll 8
      for (int b = 0; b < NB; ++b) {
        key[b] = Factor::load(tile.k[block + b] + p * 2 * kBlock, turn);
        if (turn == 0) fetch(tile.beside[block + b] + p * 2 * kBlock);
      }
#pragma GCC unroll 12
      for (int i = 0; i < NQ; ++i) {
        const Factor x = Factor::splat(q + 2 * i, turn);
#pragma GCC unroll 8
        for (int b = 0; b < NB; ++b) sum[i][b] = add_products(sum[i][b], x, key[b]);
      }
    }
  }
  for (int i = 0; i < NQ; ++i) {
    for (int b = 0; b < NB; ++b) sum[i][b].store(scores + i * kTile + (block + b) * kBlock);
  }
}

template <int NQ, int NB = blocks_at_once(NQ)>
inline void score_range_pairs(const TileBlocks<BrainElement>& tile, int block, int end, const Narrow* q, int pairs,
                              float* scores) {
  for (; block + NB <= end; block += NB) score_pairs<NQ, NB>(tile, block, q, pairs, scores);
  if constexpr (NB > 1) {
    if (block < end) score_range_pairs<NQ, NB / 2>(tile, block, end, q, pairs, scores);
  }
}

// Dimensions [column, column + 16 ND) of the weighted values of NQ queries.
template <int NQ, int ND>
struct PairColumns {
  const TileBlocks<BrainElement>& tile;
  const float* weights;  // [NQ][kTile], of each row the first kTile Narrows
  int padded, column;
  F32x16 sum[NQ][ND];

  // kIsSeen: every query sees both positions of all pairs [from, to).
  template <bool kIsSeen>
  [[gnu::always_inline]] inline void add(const Visible& seen, int from, int to) {
    for (int pair = from; pair < to; ++pair) {
      const int block = pair / (kBlock / 2), at = 2 * (pair % (kBlock / 2) * padded + column);
      const uint16_t *p = tile.v[block] + at, *next = tile.ahead[block] + at;
#pragma GCC unroll 2
      for (int turn = 0; turn < kTurns; ++turn) {
        Factor v[ND];
        for (int j = 0; j < ND; ++j) {
          v[j] = Factor::load(p + 32 * j, turn);
          if (turn == 0) fetch(next + 32 * j);
        }
#pragma GCC unroll 12
        for (int i = 0; i < NQ; ++i) {
          const int32_t halves = kIsSeen ? kBoth : halves_seen(seen, i, pair);
          if (!kIsSeen && halves == 0) continue;
          const Factor w = Factor::splat((const Narrow*)(weights + i * kTile) + 2 * pair, turn);
#pragma GCC unroll 8
          for (int j = 0; j < ND; ++j) {
            sum[i][j] = add_products(sum[i][j], w, kIsSeen ? v[j] : v[j].only(halves, turn));
          }
        }
      }
    }
  }
  static int32_t halves_seen(const Visible& seen, int i, int pair) {
    const int at = 2 * pair;
    return (at >= seen.low[i] && at < seen.high[i] ? kEven : 0) |
           (at + 1 >= seen.low[i] && at + 1 < seen.high[i] ? kOdd : 0);
  }
};

template <int NQ, int ND>
inline void value_pairs(const TileBlocks<BrainElement>& tile, const Visible& seen, const float* weights,
                        const Blend& blend, int padded, int column, float* state) {
  PairColumns<NQ, ND> work{tile, weights, padded, column, {}};
  int low = kTile, high = 0, low_common = 0, high_common = kTile;
  for (int i = 0; i < NQ; ++i) {
    for (int j = 0; j < ND; ++j) work.sum[i][j] = F32x16::zero();
    if (seen.low[i] < seen.high[i]) {
      low = seen.low[i] < low ? seen.low[i] : low;
      high = seen.high[i] > high ? seen.high[i] : high;
    }
    low_common = seen.low[i] > low_common ? seen.low[i] : low_common;
    high_common = seen.high[i] < high_common ? seen.high[i] : high_common;
  }
  const int begin = low / 2, end = (high + 1) / 2;
  int first = (low_common + 1) / 2, last = high_common / 2;
  if (first >= last) first = last = end;
  work.template add<false>(seen, begin, first);
  work.template add<true>(seen, first, last);
  work.template add<false>(seen, last, end);
  for (int i = 0; i < NQ; ++i) {
    if (seen.low[i] >= seen.high[i]) continue;
    float* out = state + (int64_t)i * padded + column;
    const F32x16 keep = F32x16::splat(blend.keep[i]), enter = F32x16::splat(blend.enter[i]);
    for (int j = 0; j < ND; ++j) {
      const F32x16 part = work.sum[i][j];
      (blend.raw ? part : fma(F32x16::load(out + j * 16), keep, part * enter)).store(out + j * 16);
    }
  }
}

template <int NQ, int ND = columns_at_once(NQ)>
inline void value_range_pairs(const TileBlocks<BrainElement>& tile, const Visible& seen, const float* weights,
                              const Blend& blend, int padded, int column, float* state) {
  for (; column + ND * 16 <= padded; column += ND * 16) {
    value_pairs<NQ, ND>(tile, seen, weights, blend, padded, column, state);
  }
  if constexpr (ND > 1) {
    if (column < padded) value_range_pairs<NQ, ND / 2>(tile, seen, weights, blend, padded, column, state);
  }
}

}  // namespace
}  // namespace legato::LEGATO_ISA
