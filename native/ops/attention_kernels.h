// The two register-blocked inner loops of attention: queries x positions, and queries x values, here in floats.
//
// Numeric definition (no width, tile of registers or number of rows appears in it):
//   score of a position: one fma chain over the head's dimensions, ascending, on the scaled query;
//   value of a dimension within a tile of kTile positions: one fma chain over the positions that the row sees,
//   ascending, starting from zero.
// Positions that a row does not see contribute nothing: their scores are replaced, their values are not multiplied,
// so whatever bytes lie there (stale blocks, NaN) cannot reach the result.
#pragma once
#include "../include/kernels.h"
#include "../simd/fetch.h"
#include "../simd/simd.h"

namespace legato::LEGATO_ISA {
namespace {

constexpr int kTile = 128;  // positions that share one softmax maximum; tile borders are multiples of it
constexpr int kTileBlocks = kTile / kBlock;
static_assert(kTileBlocks == kKvGroup, "what is read at once lies together");

#if defined(__AVX512F__)
constexpr int kAccumulators = 24;  // F32x16 that the register file holds beside operands
constexpr int kMaxQueries = 12;    // of a sub-block: those that share a softmax
constexpr int kMostScores = 12;    // queries that share a load of K
constexpr int kMostValues = 6;     // and of V
#elif defined(__AVX2__)
constexpr int kAccumulators = 6;
constexpr int kMaxQueries = 8;
constexpr int kMostScores = 6;
constexpr int kMostValues = 6;
#else
constexpr int kAccumulators = 1;
constexpr int kMaxQueries = 1;
constexpr int kMostScores = 1;
constexpr int kMostValues = 1;
#endif

// A sub-block of more queries than a loop takes at once is taken in two parts, which follow each other chunk by chunk
// of a tile: the second finds it in the first-level cache.
constexpr int part_of(int queries, int most) { return queries > most ? (queries + 1) / 2 : queries; }
constexpr int last_part_of(int queries, int most) { return queries > most ? queries / 2 : queries; }

enum class Products { Floats, Pairs, Integers };  // here, attention_pairs.h, attention_integers.h

struct HalfElement {
  using Raw = uint16_t;
  static constexpr Products kProducts = Products::Floats;
  static F32x16 load(const Raw* p) { return F32x16::load_f16(p); }
};
struct SingleElement {
  using Raw = float;
  static constexpr Products kProducts = Products::Floats;
  static F32x16 load(const Raw* p) { return F32x16::load(p); }
};

template <class E>
inline F32x16 load_first(const typename E::Raw* p, int n) {  // reads n elements only
  alignas(64) typename E::Raw copy[16] = {};
  for (int i = 0; i < n; ++i) copy[i] = p[i];
  return E::load(copy);
}

// The blocks of one tile for one KV head; only those that hold visible positions are set. The loops may wait for
// memory, so while K is read something else is fetched (`beside`: mostly V), and while V is read too (`ahead`: mostly
// the K of the tile to come): blocks of K and V have one size, so each load fetches what lies at its own offset in the
// other.
template <class E>
struct TileBlocks {
  const typename E::Raw* k[kTileBlocks];                // [head_dim][16]
  const typename E::Raw* v[kTileBlocks];                // [16][head_dim]
  const typename E::Raw *const *beside, *const *ahead;  // [kTileBlocks]
  bool fetches;                                         // what is beside and ahead; else that was done before
};

// Where processors compute faster than memory delivers, lines are fetched once more while the kAgain-th block after
// them is, as if orders were lost where many are open (1.06 to 1.09 times as fast; docs/benchmarks.md).
#if defined(__AVX512F__)
constexpr bool kFetchesAgain = true;
constexpr bool waits_for_memory(int) { return true; }
#else
constexpr bool kFetchesAgain = false;
constexpr bool waits_for_memory(int queries) { return queries <= 4; }
#endif
constexpr int kAgain = 2;

// What is fetched once more beside block i of `now`, before which `before` was fetched: each [kTileBlocks].
template <class Raw>
inline const Raw* once_more(const Raw* const* before, const Raw* const* now, int i) {
  return i < kAgain ? before[kTileBlocks - kAgain + i] : now[i - kAgain];
}

// What to fetch next, in units of kUnit elements of which each block has `each`: as it lies there, whatever the order
// in which the tile before it is read. Memory is faster in a line.
template <class E, int kUnit>
class Ahead {
 public:
  Ahead(const typename E::Raw* const* blocks, int each, int begin)
      : blocks_(blocks + begin / each), each_(each), unit_(begin % each) {}
  // The first of n more units. They follow each other: where a block ends among them, the rest is not fetched.
  const typename E::Raw* next(int n) {
    const typename E::Raw* units = *blocks_ + unit_ * kUnit;
    if ((unit_ += n) >= each_) unit_ -= each_, ++blocks_;
    return units;
  }

 private:
  const typename E::Raw* const* blocks_;
  const int each_;
  int unit_;
};

template <bool B>
struct Flag {
  static constexpr bool value = B;
};

// Calls run(Flag<whether to fetch>), which is a loop of its own if kMay.
template <bool kMay, class Tile, class F>
[[gnu::always_inline]] inline void if_fetching(const Tile& tile, const F& run) {
  if constexpr (kMay) {
    if (tile.fetches) return run(Flag<true>{});
  }
  run(Flag<false>{});
}

// The next N units, which are half a line or a whole one each. Halves are both fetched: once more, that is.
template <int N, class E, int kUnit>
[[gnu::always_inline]] inline void fetch_units(Ahead<E, kUnit>& units) {
  const typename E::Raw* next = units.next(N);
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) fetch_later(next + i * kUnit);
}

// What each query of a sub-block sees of a tile: positions [low, high) relative to the tile; low >= high: nothing.
struct Visible {
  int low[kMaxQueries], high[kMaxQueries];
};

constexpr int blocks_at_once(int queries) {  // a power of two, queries * blocks <= kAccumulators
  int n = 1;
  while (n < kTileBlocks && 2 * n * queries <= kAccumulators) n *= 2;
  return n;
}

// scores[i][16 b ..] for NB blocks from `block`; q: [head_dim][NQ].
template <class E, int NQ, int NB, bool kFetches>
inline void score_blocks(const TileBlocks<E>& tile, int block, const float* q, int head_dim, float* scores) {
  F32x16 sum[NQ][NB];
  const typename E::Raw* k[NB];
  for (int b = 0; b < NB; ++b) {
    k[b] = tile.k[block + b];
    for (int i = 0; i < NQ; ++i) sum[i][b] = F32x16::zero();
  }
  Ahead<E, kBlock> beside(tile.beside + block, head_dim, 0);
  for (int d = 0; d < head_dim; ++d, q += NQ) {
    F32x16 key[NB];
    if constexpr (kFetches) fetch_units<NB>(beside);
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b) key[b] = E::load(k[b] + d * kBlock);
#pragma GCC unroll 12
    for (int i = 0; i < NQ; ++i) {
      const F32x16 x = F32x16::splat(q[i]);
#pragma GCC unroll 8
      for (int b = 0; b < NB; ++b) sum[i][b] = fma(x, key[b], sum[i][b]);
    }
  }
  for (int i = 0; i < NQ; ++i) {
    for (int b = 0; b < NB; ++b) sum[i][b].store(scores + i * kTile + (block + b) * kBlock);
  }
}

template <class E, int NQ, int NB = blocks_at_once(NQ)>
inline void score_range(const TileBlocks<E>& tile, int block, int end, const float* q, int head_dim, float* scores) {
  for (; block + NB <= end; block += NB) {
    if_fetching<waits_for_memory(NQ)>(
        tile, [&](auto fetches) { score_blocks<E, NQ, NB, fetches.value>(tile, block, q, head_dim, scores); });
  }
  if constexpr (NB > 1) {
    if (block < end) score_range<E, NQ, NB / 2>(tile, block, end, q, head_dim, scores);
  }
}

// Dimensions [column, column + 16 ND) of the weighted values of NQ queries; with Tail, only `count` (< 16) of them.
template <class E, int NQ, int ND, bool Tail, bool kFetches>
struct ValueColumns {
  const TileBlocks<E>& tile;
  const float* weights;  // [NQ][kTile]
  int head_dim, column, count;
  Ahead<E, 16> ahead;  // from the first position on
  F32x16 sum[NQ][ND];

  [[gnu::always_inline]] inline void load(int position, F32x16* v) {
    const typename E::Raw* p = tile.v[position / kBlock] + (position % kBlock) * head_dim + column;
    if constexpr (kFetches) fetch_units<ND>(ahead);
    for (int j = 0; j < ND; ++j) v[j] = Tail ? load_first<E>(p, count) : E::load(p + j * 16);
  }
  [[gnu::always_inline]] inline void add_for_all(int from, int to) {
    for (int position = from; position < to; ++position) {
      F32x16 v[ND];
      load(position, v);
#pragma GCC unroll 12
      for (int i = 0; i < NQ; ++i) {
        const F32x16 w = F32x16::splat(weights[i * kTile + position]);
#pragma GCC unroll 8
        for (int j = 0; j < ND; ++j) sum[i][j] = fma(w, v[j], sum[i][j]);
      }
    }
  }
  [[gnu::always_inline]] inline void add_where_seen(const Visible& seen, int from, int to) {
    for (int position = from; position < to; ++position) {
      F32x16 v[ND];
      load(position, v);
#pragma GCC unroll 12
      for (int i = 0; i < NQ; ++i) {
        if (position < seen.low[i] || position >= seen.high[i]) continue;
        const F32x16 w = F32x16::splat(weights[i * kTile + position]);
#pragma GCC unroll 8
        for (int j = 0; j < ND; ++j) sum[i][j] = fma(w, v[j], sum[i][j]);
      }
    }
  }
};

// How a tile's sums enter the state: state = state * keep + sum * enter (raw: state = sum).
struct Blend {
  bool raw;
  alignas(64) float keep[16], enter[16];

  void skip(int n) {  // the first n queries
    for (int i = 0; i + n < 16; ++i) {
      keep[i] = keep[i + n];
      enter[i] = enter[i + n];
    }
  }
};

template <class E, int NQ, int ND, bool Tail, bool kFetches>
inline void value_columns(const TileBlocks<E>& tile, const Visible& seen, const float* weights, const Blend& blend,
                          int head_dim, int column, int count, float* state, int64_t state_stride) {
  int low = kTile, high = 0, low_common = 0, high_common = kTile;
  for (int i = 0; i < NQ; ++i) {
    if (seen.low[i] < seen.high[i]) {
      low = seen.low[i] < low ? seen.low[i] : low;
      high = seen.high[i] > high ? seen.high[i] : high;
    }
    low_common = seen.low[i] > low_common ? seen.low[i] : low_common;
    high_common = seen.high[i] < high_common ? seen.high[i] : high_common;
  }
  if (low_common >= high_common) low_common = high_common = high;
  const int first = Tail ? 0 : column / 16 * kTile + low * ND;
  ValueColumns<E, NQ, ND, Tail, kFetches> work{tile, weights, head_dim, column, count, {tile.ahead, head_dim, first},
                                               {}};
  for (int i = 0; i < NQ; ++i) {
    for (int j = 0; j < ND; ++j) work.sum[i][j] = F32x16::zero();
  }
  work.add_where_seen(seen, low, low_common);
  work.add_for_all(low_common, high_common);
  work.add_where_seen(seen, high_common, high);
  for (int i = 0; i < NQ; ++i) {
    if (seen.low[i] >= seen.high[i]) continue;
    float* out = state + i * state_stride + column;  // padded to whole vectors
    const F32x16 keep = F32x16::splat(blend.keep[i]), enter = F32x16::splat(blend.enter[i]);
    for (int j = 0; j < ND; ++j) {
      const F32x16 sum = work.sum[i][j];
      (blend.raw ? sum : fma(F32x16::load(out + j * 16), keep, sum * enter)).store(out + j * 16);
    }
  }
}

constexpr int columns_at_once(int queries) {
  int n = 1;
  while (n < 4 && 2 * n * queries <= kAccumulators) n *= 2;
  return n;
}

// All dimensions of NQ queries; rows of `state` are padded to a multiple of 16 floats.
template <class E, int NQ, int ND = columns_at_once(NQ)>
inline void value_range(const TileBlocks<E>& tile, const Visible& seen, const float* weights, const Blend& blend,
                        int head_dim, int column, float* state, int64_t state_stride) {
  for (; column + ND * 16 <= head_dim; column += ND * 16) {
    if_fetching<waits_for_memory(NQ)>(tile, [&](auto fetches) {
      value_columns<E, NQ, ND, false, fetches.value>(tile, seen, weights, blend, head_dim, column, 0, state,
                                                     state_stride);
    });
  }
  if (column == head_dim) return;
  if constexpr (ND > 1) {
    value_range<E, NQ, ND / 2>(tile, seen, weights, blend, head_dim, column, state, state_stride);
  } else {
    value_columns<E, NQ, 1, true, false>(tile, seen, weights, blend, head_dim, column, head_dim - column, state,
                                         state_stride);
  }
}

// 2^x for x <= 0, relative error < 3e-7; below -126 (and -inf) 0; NaN stays NaN.
inline F32x16 exp2_negative(F32x16 x) {
  const F32x16 n = round(x), r = x - n;
  F32x16 p = F32x16::splat(1.535336188e-4f);  // coefficients: Cephes exp2f
  p = fma(p, r, F32x16::splat(1.339887440e-3f));
  p = fma(p, r, F32x16::splat(9.618437357e-3f));
  p = fma(p, r, F32x16::splat(5.550332471e-2f));
  p = fma(p, r, F32x16::splat(2.402264791e-1f));
  p = fma(p, r, F32x16::splat(6.931472029e-1f));
  p = fma(p, r, F32x16::splat(1.0f));
  const F32x16 scale = bits_to_float(shift_left<23>(to_int(n) + I32x16::splat(127)));
  return select(less(x, F32x16::splat(-126.0f)), F32x16::zero(), p * scale);
}

}  // namespace
}  // namespace legato::LEGATO_ISA
