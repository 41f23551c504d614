// Attention over a bf16 cache: products of two neighbouring dimensions (keys) or positions (values) at once, as
// vdpbf16ps takes them.
//
// Numeric definition, the same bits on every instruction set, for any tile of registers and number of rows:
//   query: scaled, then rounded to bf16; a score is one chain of fused multiply-adds over pairs of dimensions,
//   ascending, of a pair first the odd one, as the instruction does it; weights are rounded to bf16, and their sum is
//   that of the rounded ones, in such chains too; the value of a dimension within a tile is one such chain over the
//   pairs of positions of which the row sees any, starting from zero.
// Of a pair that a row sees half of, the other half counts as zero times zero, so that whatever bytes lie there cannot
// reach the result. (Numbers below the smallest normal float, 1e-38, the instruction takes as zero.)
#pragma once
#include "../simd/across.h"
#include "attention_kernels.h"

namespace legato::LEGATO_ISA {
namespace {

struct BrainElement {
  using Raw = uint16_t;
  static constexpr Products kProducts = Products::Pairs;
};

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

// 2^x for x <= 0, relative error < 9e-5: it is rounded to bf16, which may lose 2e-3. Below -126 (and -inf) what is
// rounded to 0; NaN stays NaN. Coefficients: of the least largest relative error on [0, 1], with 1 at 0.
inline F32x16 exp2_coarse(F32x16 x) {
  x = max(F32x16::splat(-127.0f), x);
  const F32x16 n = floor(x), r = x - n;
  F32x16 p = F32x16::splat(7.70670548e-2f);
  p = fma(p, r, F32x16::splat(2.2764498e-1f));
  p = fma(p, r, F32x16::splat(6.95116818e-1f));
  p = fma(p, r, F32x16::splat(1.0f));
  return scaled(p, n);
}

// A query's scores in blocks [begin, end), -inf where it sees nothing, become weights 2^(score - top), in place behind
// what is still to be read. Returns their sum: lane i's chain is over positions 2i + 1 and 2i of 32 at fixed places.
inline float weigh_pairs(float* scores, int begin, int end, F32x16 top) {
  F32x16 sum = F32x16::zero();
  const auto weight = [&](int block) { return exp2_coarse(F32x16::load(scores + block * kBlock) - top); };
  for (int b = begin / 2 * 2; b < end; b += 2) {
    const F32x16 first = b < begin ? F32x16::zero() : weight(b);
    const F32x16 second = b + 1 == end ? F32x16::zero() : weight(b + 1);
    sum = add_weights(sum, first, second, (Narrow*)scores + b * kBlock);
  }
  return reduce_add(sum);
}

// One scaled query into every `stride`-th pair of `to`; an odd head_dim is filled up with zero.
inline void narrow_query(const float* x, int head_dim, float scale, int stride, Narrow* to) {
  for (int d = 0; d < head_dim; d += 16, to += 16 * stride) {
    const int n = head_dim - d < 16 ? head_dim - d : 16;
    scatter_pairs(F32x16::load_partial(x + d, n) * F32x16::splat(scale), n, stride, to);
  }
}

// Whether what is fetched is counted: that takes instructions, which many queries that share a tile feel (AVX2, six of
// them: 5 %).
constexpr bool fetches_in_a_line(int queries) { return queries <= (kTurns == 1 ? 8 : 4); }
constexpr int kLine = 2 * kBlock;  // elements
using Lines = Ahead<BrainElement, kLine>;

// Scores of NQ queries, [pairs][NQ][2], for NB blocks of a tile; `most` takes them in unless it is null: [NQ].
template <int NQ, int NB>
[[gnu::always_inline]] inline void score_pairs(const TileBlocks<BrainElement>& tile, int block, const Narrow* q,
                                               int pairs, float* scores, F32x16* most) {
  F32x16 sum[NQ][NB];
  for (int i = 0; i < NQ; ++i) {
    for (int b = 0; b < NB; ++b) sum[i][b] = F32x16::zero();
  }
  Lines beside(tile.beside + block, pairs, 0);
  for (int p = 0; p < pairs; ++p, q += 2 * NQ) {
    const uint16_t* lines = fetches_in_a_line(NQ) ? beside.next(NB) : nullptr;
#pragma GCC unroll 2
    for (int turn = 0; turn < kTurns; ++turn) {
      Factor key[NB];
#pragma GCC unroll 8
      for (int b = 0; b < NB; ++b) {
        key[b] = Factor::load(tile.k[block + b] + p * 2 * kBlock, turn);
        if (turn == 0) fetch(lines ? lines + b * kLine : tile.beside[block + b] + p * kLine);
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
    if (!most) continue;
    for (int b = 0; b < NB; ++b) most[i] = max(most[i], sum[i][b]);
  }
}

template <int NQ, int NB = blocks_at_once(NQ)>
[[gnu::always_inline]] inline void score_range_pairs(const TileBlocks<BrainElement>& tile, int block, int end,
                                                     const Narrow* q, int pairs, float* scores, F32x16* most) {
  for (; block + NB <= end; block += NB) score_pairs<NQ, NB>(tile, block, q, pairs, scores, most);
  if constexpr (NB > 1) {
    if (block < end) score_range_pairs<NQ, NB / 2>(tile, block, end, q, pairs, scores, most);
  }
}

// Lane i: the largest of query i's 16, or their sum. Of many queries at once it costs a third of the instructions.
template <class Op, int NQ>
inline F32x16 folded(const F32x16 (&x)[16]) {
#if defined(__AVX512F__)
  if constexpr (NQ >= 6) return fold_lanes<Op>(x);
#endif
  alignas(64) float each[16] = {};
  for (int i = 0; i < NQ; ++i) each[i] = Op::reduce(x[i]);
  return F32x16::load(each);
}

// The softmax of a tile that all NQ queries see whole: weights in place of scores, lane i of maximum and sum is query
// i's. The same steps as largest_score and weigh_pairs, without asking what is seen.
template <int NQ>
inline void weigh_whole(const TileBlocks<BrainElement>& tile, const Narrow* q, int pairs, float* scores,
                        F32x16& maximum, F32x16& sum) {
  F32x16 each[16];
  for (int i = 0; i < 16; ++i) each[i] = F32x16::splat(-__builtin_inff());
  score_range_pairs<NQ>(tile, 0, kTileBlocks, q, pairs, scores, each);
  maximum = folded<LargestFloat, NQ>(each);
  alignas(64) float top[16];
  maximum.store(top);
  for (int i = 0; i < NQ; ++i) {
    const F32x16 most = F32x16::splat(top[i]);
    float* row = scores + i * kTile;
    each[i] = F32x16::zero();
#pragma GCC unroll 4
    for (int b = 0; b < kTileBlocks; b += 2) {
      const F32x16 first = exp2_coarse(F32x16::load(row + b * kBlock) - most);
      const F32x16 second = exp2_coarse(F32x16::load(row + (b + 1) * kBlock) - most);
      each[i] = add_weights(each[i], first, second, (Narrow*)row + b * kBlock);
    }
  }
  sum = folded<TotalFloat, NQ>(each);
}

// Dimensions [column, column + 16 ND) of the weighted values of NQ queries.
template <int NQ, int ND, bool kInLine>
struct PairColumns {
  const TileBlocks<BrainElement>& tile;
  const float* weights;  // [NQ][kTile], of each row the first kTile Narrows
  int padded, column;
  F32x16 sum[NQ][ND];

  // kIsSeen: every query sees both positions of all pairs [from, to).
  template <bool kIsSeen>
  [[gnu::always_inline]] inline void add(const Visible& seen, int from, int to) {
    Lines ahead(tile.ahead, padded / 2, column / 16 * (kTile / 2) + from * ND);
    for (int pair = from; pair < to; ++pair) {
      const int block = pair / (kBlock / 2), at = 2 * (pair % (kBlock / 2) * padded + column);
      const uint16_t *p = tile.v[block] + at, *lines = kInLine ? ahead.next(ND) : tile.ahead[block] + at;
#pragma GCC unroll 2
      for (int turn = 0; turn < kTurns; ++turn) {
        Factor v[ND];
        for (int j = 0; j < ND; ++j) {
          v[j] = Factor::load(p + 32 * j, turn);
          if (turn == 0) fetch(lines + kLine * j);
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

// What each query sees of a tile, in ascending order.
template <int NQ, int ND, bool kInLine>
inline void add_seen(PairColumns<NQ, ND, kInLine>& work, const Visible& seen) {
  int low = kTile, high = 0, low_common = 0, high_common = kTile;
  for (int i = 0; i < NQ; ++i) {
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
}

// kIsWhole: every query sees the whole tile, whatever `seen` says. kInLine: fetches_in_a_line of those that share it.
template <int NQ, int ND, bool kIsWhole, bool kInLine>
inline void value_pairs(const TileBlocks<BrainElement>& tile, const Visible& seen, const float* weights,
                        const Blend& blend, int padded, int column, float* state) {
  PairColumns<NQ, ND, kInLine> work{tile, weights, padded, column, {}};
  for (int i = 0; i < NQ; ++i) {
    for (int j = 0; j < ND; ++j) work.sum[i][j] = F32x16::zero();
  }
  if constexpr (kIsWhole) {
    work.template add<true>(seen, 0, kTile / 2);
  } else {
    add_seen(work, seen);
  }
  for (int i = 0; i < NQ; ++i) {
    if (!kIsWhole && seen.low[i] >= seen.high[i]) continue;
    float* out = state + (int64_t)i * padded + column;
    const F32x16 keep = F32x16::splat(blend.keep[i]), enter = F32x16::splat(blend.enter[i]);
    for (int j = 0; j < ND; ++j) {
      const F32x16 part = work.sum[i][j];
      (blend.raw ? part : fma(F32x16::load(out + j * 16), keep, part * enter)).store(out + j * 16);
    }
  }
}
template <int NQ, bool kIsWhole, bool kInLine, int ND = columns_at_once(NQ)>
inline void value_range_pairs(const TileBlocks<BrainElement>& tile, const Visible& seen, const float* weights,
                              const Blend& blend, int padded, int column, float* state) {
  for (; column + ND * 16 <= padded; column += ND * 16) {
    value_pairs<NQ, ND, kIsWhole, kInLine>(tile, seen, weights, blend, padded, column, state);
  }
  if constexpr (ND > 1) {
    if (column < padded)
      value_range_pairs<NQ, kIsWhole, kInLine, ND / 2>(tile, seen, weights, blend, padded, column, state);
  }
}

}  // namespace
}  // namespace legato::LEGATO_ISA
