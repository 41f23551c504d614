// Attention over a bf16 cache: products of two neighbouring dimensions (keys) or positions (values) at once, as
// vdpbf16ps takes them.
//
// Numeric definition, the same bits on every instruction set, for any tile of registers and number of rows:
//   query: scaled, then rounded to bf16; a score is one chain of fused multiply-adds over pairs of dimensions,
//   ascending, of a pair first the odd one, as the instruction does it; weights are rounded to bf16, and their sum is
//   that of the rounded ones, in such chains too; the value of a dimension within a tile is one such chain over the
//   pairs of positions of which the row sees any, starting from zero.
// Of a pair that a row sees half of, the other half counts as zero times zero, so that whatever bytes lie there cannot
// reach the result.
#pragma once
#include "attention_kernels.h"
#include "pair_products.h"

namespace legato::LEGATO_ISA {
namespace {

struct BrainElement {
  using Raw = uint16_t;
  static constexpr Products kProducts = Products::Pairs;
};

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

// The loops below are functions of their own, and those over sums are unrolled early: then sums lie in registers from
// beginning to end, and nothing that GCC takes out of a loop around them lies in the others.

// Scores of NQ of the queries of a sub-block, [pairs][kOf][2], for NB blocks of a tile; `most` takes them in unless it
// is null: [NQ].
template <int NQ, int NB, int kOf, bool kFetches>
[[gnu::noinline]] void score_pairs(const TileBlocks<BrainElement>& tile, int block, const Narrow* q, int pairs,
                                   float* scores, F32x16* most) {
  F32x16 sum[NQ][NB];
#pragma GCC unroll 12
  for (int i = 0; i < NQ; ++i) {
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b) sum[i][b] = F32x16::zero();
  }
  LineProducts<NQ, NB> products;
#pragma GCC unroll 1
  for (int part = 0, p = 0; part < NB; ++part) {  // of the blocks beside, that one is fetched
    const uint16_t* lines = tile.beside[block + part];
    const int64_t again = once_more(tile.k, tile.beside, block + part) - lines;
    for (const int end = pairs * (part + 1) / NB; p < end; ++p, q += 2 * kOf, lines += NB * kLine) {
#pragma GCC unroll 8
      for (int b = 0; b < (kFetches ? NB : 0); ++b) {
        fetch_later(lines + b * kLine);
        if constexpr (kFetchesAgain) fetch_later(lines + b * kLine + again);
      }
      products.add(sum, [&](int b) { return tile.k[block + b] + p * kLine; }, [&](int i) { return q + 2 * i; });
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < NQ; ++i) {
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b) sum[i][b].store(scores + i * kTile + (block + b) * kBlock);
    if (!most) continue;
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b) most[i] = max(most[i], sum[i][b]);
  }
}

// N blocks for all NQ queries that are left. What lies beside them is fetched once.
template <int N, int NQ, int kOf = NQ>
[[gnu::always_inline]] inline void score_chunk(const TileBlocks<BrainElement>& tile, int block, const Narrow* q,
                                               int pairs, float* scores, F32x16* most) {
  constexpr int kPart = part_of(NQ, kMostScores), kAtOnce = blocks_at_once(kPart), NB = N < kAtOnce ? N : kAtOnce;
  for (int b = block; b < block + N; b += NB) {
    if_fetching<NQ == kOf>(
        tile, [&](auto fetches) { score_pairs<kPart, NB, kOf, fetches.value>(tile, b, q, pairs, scores, most); });
  }
  if constexpr (kPart < NQ) {
    score_chunk<N, NQ - kPart, kOf>(tile, block, q + 2 * kPart, pairs, scores + kPart * kTile,
                                    most ? most + kPart : nullptr);
  }
}

template <int NQ, int N = blocks_at_once(last_part_of(NQ, kMostScores))>
[[gnu::always_inline]] inline void score_range_pairs(const TileBlocks<BrainElement>& tile, int block, int end,
                                                     const Narrow* q, int pairs, float* scores, F32x16* most) {
  for (; block + N <= end; block += N) score_chunk<N, NQ>(tile, block, q, pairs, scores, most);
  if constexpr (N > 1) {
    if (block < end) score_range_pairs<NQ, N / 2>(tile, block, end, q, pairs, scores, most);
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

// Dimensions [column, column + 16 ND) of the weighted values of NQ queries, the first of which is `first` of its
// sub-block.
template <int NQ, int ND, bool kFetches>
struct PairColumns {
  const TileBlocks<BrainElement>& tile;
  const Visible& seen;
  const float* weights;  // of the sub-block, [queries][kTile], of each row the first kTile Narrows
  int first, padded, column;

  static constexpr int kPairs = kBlock / 2;
  using Sum = F32x16 (&)[NQ][ND];

  // Every query sees both positions of all pairs [from, to).
  [[gnu::always_inline]] inline void add_for_all(Sum sum, int from, int to) const {
    LineProducts<NQ, ND> products;
    const int each = padded / 2, first = column / 16 * (kTile / 2) + from * ND;  // lines: of a block, of the tile ahead
    int next = first / each, line = first % each;
    for (int pair = from; pair < to;) {
      const int block = pair / kPairs, within = pair % kPairs;
      const int n = to - pair < kPairs - within ? to - pair : kPairs - within;
      const uint16_t* v = tile.v[block] + 2 * (within * padded + column);
      const uint16_t* lines = tile.ahead[next] + line * kLine;
      const int64_t again = once_more(tile.v, tile.ahead, next) - tile.ahead[next];
      const Narrow* w = weights_of(0) + 2 * pair;
      for (const Narrow* end = w + 2 * n; w < end; w += 2, v += 2 * padded, lines += ND * kLine) {
#pragma GCC unroll 4
        for (int j = 0; j < (kFetches ? ND : 0); ++j) {
          fetch_later(lines + j * kLine);
          if constexpr (kFetchesAgain) fetch_later(lines + j * kLine + again);
        }
        products.add(sum, [&](int j) { return v + j * kLine; }, [&](int i) { return w + i * kRow; });
      }
      pair += n;
      for (line += n * ND; line >= each; line -= each) ++next;
    }
  }
  [[gnu::always_inline]] inline void add_where_seen(Sum sum, int from, int to) const {
    for (int pair = from; pair < to; ++pair) {
      const uint16_t* p = tile.v[pair / kPairs] + 2 * (pair % kPairs * padded + column);
#pragma GCC unroll 2
      for (int turn = 0; turn < kTurns; ++turn) {
        Factor v[ND];
        for (int j = 0; j < ND; ++j) v[j] = Factor::load(p + j * kLine, turn);
#pragma GCC unroll 12
        for (int i = 0; i < NQ; ++i) {
          const int32_t halves = halves_seen(i, pair);
          if (halves == 0) continue;
          const Factor w = Factor::splat(weights_of(i) + 2 * pair, turn);
#pragma GCC unroll 4
          for (int j = 0; j < ND; ++j) sum[i][j] = add_products(sum[i][j], w, v[j].only(halves, turn));
        }
      }
    }
  }
  // What each query sees of the tile, in ascending order.
  [[gnu::always_inline]] inline void add_seen(Sum sum) const {
    int low = kTile, high = 0, low_common = 0, high_common = kTile;
    for (int i = first; i < first + NQ; ++i) {
      if (sees(i)) {
        low = seen.low[i] < low ? seen.low[i] : low;
        high = seen.high[i] > high ? seen.high[i] : high;
      }
      low_common = seen.low[i] > low_common ? seen.low[i] : low_common;
      high_common = seen.high[i] < high_common ? seen.high[i] : high_common;
    }
    const int begin = low / 2, end = (high + 1) / 2;
    int begin_common = (low_common + 1) / 2, end_common = high_common / 2;
    if (begin_common >= end_common) begin_common = end_common = end;
    add_where_seen(sum, begin, begin_common);
    add_for_all(sum, begin_common, end_common);
    add_where_seen(sum, end_common, end);
  }
  bool sees(int query) const { return seen.low[query] < seen.high[query]; }

 private:
  static constexpr int kRow = kTile * (int)(sizeof(float) / sizeof(Narrow));
  const Narrow* weights_of(int i) const { return (const Narrow*)weights + (first + i) * kRow; }
  int32_t halves_seen(int i, int pair) const {
    const int at = 2 * pair, low = seen.low[first + i], high = seen.high[first + i];
    return (at >= low && at < high ? kEven : 0) | (at + 1 >= low && at + 1 < high ? kOdd : 0);
  }
};

// kIsWhole: every query sees the whole tile, whatever `seen` says. state: of the sub-block, [queries][padded].
template <int NQ, int ND, bool kIsWhole, bool kFetches>
[[gnu::noinline]] void value_pairs(const TileBlocks<BrainElement>& tile, const Visible& seen, const float* weights,
                                   const Blend& blend, int first, int padded, int column, float* state) {
  const PairColumns<NQ, ND, kFetches> columns{tile, seen, weights, first, padded, column};
  F32x16 sum[NQ][ND];
#pragma GCC unroll 12
  for (int i = 0; i < NQ; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < ND; ++j) sum[i][j] = F32x16::zero();
  }
  if constexpr (kIsWhole) {
    columns.add_for_all(sum, 0, kTile / 2);
  } else {
    columns.add_seen(sum);
  }
#pragma GCC unroll 12
  for (int i = 0; i < NQ; ++i) {
    if (!kIsWhole && !columns.sees(first + i)) continue;
    float* out = state + (int64_t)(first + i) * padded + column;
    const F32x16 keep = F32x16::splat(blend.keep[first + i]), enter = F32x16::splat(blend.enter[first + i]);
#pragma GCC unroll 4
    for (int j = 0; j < ND; ++j) {
      const F32x16 part = sum[i][j];
      (blend.raw ? part : fma(F32x16::load(out + j * 16), keep, part * enter)).store(out + j * 16);
    }
  }
}

// 16 N dimensions for all NQ queries that are left of kOf.
template <int N, int NQ, bool kIsWhole, int kOf = NQ>
inline void value_chunk(const TileBlocks<BrainElement>& tile, const Visible& seen, const float* weights,
                        const Blend& blend, int padded, int column, float* state) {
  constexpr int kPart = part_of(NQ, kMostValues), kAtOnce = columns_at_once(kPart), ND = N < kAtOnce ? N : kAtOnce;
  for (int c = column; c < column + 16 * N; c += 16 * ND) {
    if_fetching<NQ == kOf>(tile, [&](auto fetches) {
      value_pairs<kPart, ND, kIsWhole, fetches.value>(tile, seen, weights, blend, kOf - NQ, padded, c, state);
    });
  }
  if constexpr (kPart < NQ) {
    value_chunk<N, NQ - kPart, kIsWhole, kOf>(tile, seen, weights, blend, padded, column, state);
  }
}

template <int NQ, bool kIsWhole, int N = columns_at_once(last_part_of(NQ, kMostValues))>
inline void value_range_pairs(const TileBlocks<BrainElement>& tile, const Visible& seen, const float* weights,
                              const Blend& blend, int padded, int column, float* state) {
  for (; column + 16 * N <= padded; column += 16 * N) {
    value_chunk<N, NQ, kIsWhole>(tile, seen, weights, blend, padded, column, state);
  }
  if constexpr (N > 1) {
    if (column < padded) value_range_pairs<NQ, kIsWhole, N / 2>(tile, seen, weights, blend, padded, column, state);
  }
}

}  // namespace
}  // namespace legato::LEGATO_ISA
