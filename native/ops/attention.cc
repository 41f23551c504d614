// Causal attention over the paged cache, for prompt chunks and decode tokens alike.
//
// A row's result is the softmax-weighted sum of values, built tile by tile: each tile of kTile positions (borders at
// fixed absolute positions) has its own maximum, sum and value sums; tiles enter the row's state in ascending order.
// attention_plan.h says how the work is divided.
#include "attention_integers.h"
#include "attention_pairs.h"
#include "attention_plan.h"
#include "fill.h"

namespace legato::LEGATO_ISA {
namespace {

constexpr float kLog2E = 1.44269504088896341f;

// Queries of a sub-block at most.
template <class E>
constexpr int kMostQueries = E::kProducts == Products::Pairs ? kMaxQueries : kMostScores;

// How many of the remaining queries the next sub-block takes: as many as share a load of K, or the last few.
template <class E>
int sub_block(int remaining) {
  if (remaining > kMostQueries<E>) return kMostScores;
  return remaining > 8 && remaining < 12 ? 8 : remaining;
}

template <int N>
struct Size {
  static constexpr int value = N;
};

// Calls run(Size<N>) for the sub-block size n.
template <int N, class F>
inline void with_size(int n, const F& run) {
  if constexpr (N == 1) {
    run(Size<1>{});
  } else {
    if (n == N) return run(Size<N>{});
    with_size<(N > 8 ? 8 : N - 1)>(n, run);
  }
}

// Calls run(Size<N>, first) for each part of a sub-block whose values are taken at once.
template <int NQ, int kOf = NQ, class F>
inline void with_parts(const F& run) {
  constexpr int kPart = part_of(NQ, kMostValues);
  run(Size<kPart>{}, kOf - NQ);
  if constexpr (kPart < NQ) with_parts<NQ - kPart, kOf>(run);
}

struct Curve {  // from dot products of the scaled query to exponents of two
  float query_scale, inner, outer;
  bool capped;
};
Curve curve_of(const AttentionArgs& a) {
  if (a.softcap > 0) return {a.scale, 1.0f / a.softcap, a.softcap * kLog2E, true};
  return {a.scale * kLog2E, 0, 0, false};
}

Mask16 lanes_seen(int block, int low, int high) {  // lanes of a block that lie in [low, high)
  const int from = low - block * kBlock, to = high - block * kBlock;
  const unsigned below = from <= 0 ? 0u : from >= 16 ? 0xffffu : (1u << from) - 1u;
  const unsigned until = to <= 0 ? 0u : to >= 16 ? 0xffffu : (1u << to) - 1u;
  return (Mask16)(until & ~below);
}

// Scores of one query in [low, high) are curved, and hidden elsewhere in their blocks; returns the largest.
inline float largest_score(float* scores, int low, int high, const Curve& curve) {
  const int begin = low / kBlock, end = (high + kBlock - 1) / kBlock;
  const F32x16 hidden = F32x16::splat(-__builtin_inff());
  F32x16 most = hidden;
  for (int b = begin; b < end; ++b) {
    F32x16 x = F32x16::load(scores + b * kBlock);
    const bool is_whole = b * kBlock >= low && (b + 1) * kBlock <= high;
    if (curve.capped) x = tanh(x * F32x16::splat(curve.inner)) * F32x16::splat(curve.outer);
    if (!is_whole) x = select(lanes_seen(b, low, high), x, hidden);
    if (curve.capped || !is_whole) x.store(scores + b * kBlock);
    most = max(most, x);
  }
  return reduce_max(most);
}

// Then they become weights 2^(score - maximum), in the form that the values are multiplied with (integers come later);
// returns their sum.
template <class E>
inline float weigh(float* scores, int low, int high, float maximum) {
  const int begin = low / kBlock, end = (high + kBlock - 1) / kBlock;
  const F32x16 top = F32x16::splat(maximum);
  if constexpr (E::kProducts == Products::Pairs) return weigh_pairs(scores, begin, end, top);
  F32x16 total = F32x16::zero();
  for (int b = begin; b < end; ++b) {
    const F32x16 weight = exp2_negative(F32x16::load(scores + b * kBlock) - top);
    weight.store(scores + b * kBlock);
    total = total + weight;
  }
  return reduce_add(total);
}

// The state of the n queries from `at` takes in a tile with the maxima and sums `part`; those not live keep what they
// have.
inline void enter(const Running& running, int64_t at, int n, F32x16 fresh, F32x16 fresh_sum, Mask16 live,
                  Blend& blend) {
  const F32x16 old = F32x16::load(running.maximum + at), old_sum = F32x16::load(running.sum + at);
  const F32x16 top = max(fresh, old);
  const F32x16 keep = exp2_negative(old - top), take = exp2_negative(fresh - top);
  const F32x16 sum = fma(old_sum, keep, fresh_sum * take);
  select(live, top, old).store_partial(running.maximum + at, n);
  select(live, sum, old_sum).store_partial(running.sum + at, n);
  keep.store(blend.keep);
  take.store(blend.enter);
  blend.raw = false;
}

template <class E>
class Worker {
 public:
  Worker(const AttentionArgs& a, const Shape& s, const Desk& d) : a_(a), s_(s), d_(d), curve_(curve_of(a)) {
    // Addresses to fetch ahead need not be right, but should be mapped.
    for (int b = 0; b < kTileBlocks; ++b) {
      blocks_.k[b] = blocks_.v[b] = next_[b] = branch_k_[b] = branch_v_[b] = (const Raw*)a.kv.k;
    }
  }

  // The pieces of `heads` that are their shares. Then comes `ahead`, of the head `ahead_head`; ahead.rows == 0:
  // nothing.
  void run(const Unit& u, const Abreast& heads, const Unit& ahead, int ahead_head) {
    const int queries = u.rows * s_.group;  // of a head
    int branch[kMostAbreast];
    for (int i = 0; i < heads.count; ++i) {
      if (!heads.shares[i].is_raw()) clear(i * queries, queries);
      branch[i] = heads.shares[i].is_last && u.is_shared() ? u.row : u.row + u.rows;
    }
    int index = 0, row = -1, rows = 0;
    for (Pieces it(a_, s_, u); !it.at_end(); ++index) {
      const Piece piece = it.piece();
      it.next();
      int i = heads.having(index, 0);
      if (i == heads.count) continue;
      if (piece.row != row || piece.rows != rows) {
        for (int h = 0; h < heads.count; ++h) scale_queries(piece, heads.first + h, h * queries);
        row = piece.row, rows = piece.rows;
      }
      const bool sees_all = is_whole(piece);
      for (int next; i < heads.count; i = next) {
        find_blocks(piece, heads.first + i, blocks_.k, blocks_.v);
        next = heads.having(index, i + 1);
        const int after = next < heads.count ? heads.count : heads.having(index + 1, 0);  // of the next piece
        if (next < heads.count) {
          find_blocks(piece, heads.first + next, next_, nullptr);
        } else if (after < heads.count && !it.at_end()) {
          find_blocks(it.piece(), heads.first + after, next_, nullptr);
        } else if (ahead.rows > 0) {
          find_blocks(Pieces(a_, s_, ahead).piece(), ahead_head, next_, nullptr);
        }
        const bool raw = heads.shares[i].is_raw();
        const int64_t first = raw ? piece.slot : (int64_t)(piece.row - u.row) * s_.group + i * queries;
        for (int q = 0, n; q < piece.rows * s_.group; q += n) {
          n = sub_block<E>(piece.rows * s_.group - q);
          blocks_.beside = blocks_.v;
          blocks_.ahead = next_;
          blocks_.fetches = q == 0 || (piece.tile < u.trunk && fetch_branch(u, heads.first + i, branch[i]));
          const int desk = i * queries + q;
          with_size<kMostQueries<E>>(n, [&](auto size) {
            if constexpr (E::kProducts == Products::Pairs) {
              if (sees_all) return whole<size.value>(desk, first + q, raw);
            }
            one<size.value>(piece, q, desk, first + q, raw);
          });
        }
      }
    }
  }

  // The state of the head that was `place`-th of those abreast takes in the raw pieces that a thread left.
  void enter_raw(const Unit& u, int place, const Header& left, const Desk& from) {
    int index = 0;
    for (Pieces it(a_, s_, u); !it.at_end() && index < left.tail_end; it.next(), ++index) {
      if (index >= left.tail_begin) enter_raw(u, place, it.piece(), from);
    }
  }

  void finish(const Unit& u, int kv_head, int place) {
    const int queries = u.rows * s_.group, head_dim = a_.kv.head_dim;
    for (int q = 0; q < queries; ++q) {
      const int row = u.row + q / s_.group, head = kv_head * s_.group + q % s_.group;
      float* out = a_.out + row * a_.out_stride + (int64_t)head * head_dim;
      const int64_t at = (int64_t)place * queries + q;
      const float* state = d_.state + at * s_.padded;
      const F32x16 scale = F32x16::splat(1.0f / d_.running.sum[at]);
      int j = 0;
      for (; j + 16 <= head_dim; j += 16) (F32x16::load(state + j) * scale).store(out + j);
      if (j < head_dim) (F32x16::load(state + j) * scale).store_partial(out + j, head_dim - j);
    }
  }

 private:
  using Raw = typename E::Raw;

  void enter_raw(const Unit& u, int place, const Piece& piece, const Desk& from) {
    const int queries = piece.rows * s_.group;
    const int64_t first = (int64_t)(place * u.rows + piece.row - u.row) * s_.group;
    for (int q = 0, n; q < queries; q += n) {
      n = sub_block<E>(queries - q);
      const Visible seen = visible(piece, q, n);
      Blend blend;
      const F32x16 maximum = F32x16::load(from.raw_running.maximum + piece.slot + q);
      const F32x16 sum = F32x16::load(from.raw_running.sum + piece.slot + q);
      enter(d_.running, first + q, n, maximum, sum, live_lanes(seen, n), blend);
      for (int i = 0; i < n; ++i) {
        if (seen.low[i] >= seen.high[i]) continue;
        float* out = d_.state + (first + q + i) * s_.padded;
        const float* part = from.raw_state + (piece.slot + q + i) * s_.padded;
        const F32x16 keep = F32x16::splat(blend.keep[i]), take = F32x16::splat(blend.enter[i]);
        for (int j = 0; j < s_.padded; j += 16) {
          fma(F32x16::load(out + j), keep, F32x16::load(part + j) * take).store(out + j);
        }
      }
    }
  }

  // Of a piece's rows, in the order of its sub-blocks, from `at` on the desk.
  void scale_queries(const Piece& piece, int kv_head, int at) {
    const int head_dim = a_.kv.head_dim, queries = piece.rows * s_.group;
    for (int q = 0, n; q < queries; q += n) {
      n = sub_block<E>(queries - q);
      float* to = d_.queries + (int64_t)(at + q) * s_.padded;
      for (int i = 0; i < n; ++i) {
        const int row = piece.row + (q + i) / s_.group, head = kv_head * s_.group + (q + i) % s_.group;
        const float* from = a_.q + row * a_.q_stride + (int64_t)head * head_dim;
        if constexpr (E::kProducts == Products::Pairs) {
          narrow_query(from, head_dim, curve_.query_scale, n, (Narrow*)to + 2 * i);
        } else if constexpr (E::kProducts == Products::Integers) {
          const float unit = quantise_query(from, head_dim, s_.padded, n, (int16_t*)to + 2 * i);
          d_.factors[at + q + i] = unit * curve_.query_scale;
        } else {
          for (int d = 0; d < head_dim; ++d) to[d * n + i] = from[d] * curve_.query_scale;
        }
      }
    }
  }

  void clear(int64_t first, int queries) {
    for (int64_t q = first; q < first + queries; ++q) {
      d_.running.maximum[q] = -__builtin_inff();
      d_.running.sum[q] = 0;
    }
    float* const state = d_.state + first * s_.padded;
    for (int64_t i = 0; i < (int64_t)queries * s_.padded; i += 16) F32x16::zero().store(state + i);
  }

  void find_blocks(const Piece& p, int kv_head, const Raw** k, const Raw** v) {
    const int32_t* table = a_.block_tables + a_.sequences[p.row] * a_.table_stride;
    const int from = p.tile * kTile > p.low ? p.tile * kTile : p.low;
    const int to = (p.tile + 1) * kTile < p.high ? (p.tile + 1) * kTile : p.high;
    for (int b = from / kBlock; b * kBlock < to; ++b) {
      const int64_t at = a_.kv.at(table[b], kv_head);
      k[b % kTileBlocks] = (const Raw*)(a_.kv.k + at);
      if (v) v[b % kTileBlocks] = (const Raw*)(a_.kv.v + at);
    }
  }

  // While many queries read a tile of the trunk, memory has time for the branches: has the first tile of the one that
  // begins with row `branch` fetched next, if there is one, and goes to the row after it.
  bool fetch_branch(const Unit& u, int kv_head, int& branch) {
    const int end = u.row + u.rows;
    if (branch >= end) return false;
    const int rows = rows_of_one(a_, branch, end - branch), high = a_.positions[branch + rows - 1] + 1;
    find_blocks({u.trunk, branch, rows, first_seen(a_, branch), high, 0}, kv_head, branch_k_, branch_v_);
    blocks_.beside = branch_k_;
    blocks_.ahead = branch_v_;
    branch += rows;
    return true;
  }

  Visible visible(const Piece& piece, int q, int n) const {
    Visible seen;
    const int base = piece.tile * kTile;
    for (int i = 0; i < n; ++i) {
      const int row = piece.row + (q + i) / s_.group, low = first_seen(a_, row) - base;
      const int high = a_.positions[row] + 1 - base;
      seen.low[i] = low > 0 ? low : 0;
      seen.high[i] = high < kTile ? high : kTile;
    }
    return seen;
  }

  static Mask16 live_lanes(const Visible& seen, int n) {
    unsigned live = 0;
    for (int i = 0; i < n; ++i) live |= (unsigned)(seen.low[i] < seen.high[i]) << i;
    return (Mask16)live;
  }

  // Integer weights of blocks [begin, end) that a query sees nothing of, or that no query has.
  void clear_unseen(const Visible& seen, Mask16 live, int n, int begin, int end) {
    for (int i = 0; i < n; ++i) {
      int16_t* weights = (int16_t*)(d_.scores + i * kTile);
      const bool any = live >> i & 1;
      const int first = any ? seen.low[i] / kBlock : end, last = any ? (seen.high[i] + kBlock - 1) / kBlock : end;
      for (int b = begin; b < end; ++b) {
        if (b < first || b >= last) __builtin_memset(weights + b * kBlock, 0, kBlock * 2);
      }
    }
  }

  // Every row of the piece sees its whole tile, and scores are no more than that.
  bool is_whole(const Piece& piece) const {
    if (E::kProducts != Products::Pairs || curve_.capped) return false;
    const int base = piece.tile * kTile;
    for (int row = piece.row; row < piece.row + piece.rows; ++row) {
      if (first_seen(a_, row) > base || a_.positions[row] + 1 < base + kTile) return false;
    }
    return true;
  }

  // one() for a piece that is whole.
  template <int NQ>
  [[gnu::noinline]] void whole(int desk, int64_t at, bool raw) {
    F32x16 maximum, sum;
    const Narrow* x = (const Narrow*)(d_.queries + (int64_t)desk * s_.padded);
    weigh_whole<NQ>(blocks_, x, (a_.kv.head_dim + 1) / 2, d_.scores, maximum, sum);
    Blend blend;
    take_in(maximum, sum, at, NQ, live_of(NQ), raw, blend);
    float* state = (raw ? d_.raw_state : d_.state) + at * s_.padded;
    value_range_pairs<NQ, true>(blocks_, Visible(), d_.scores, blend, s_.padded, 0, state);
  }

  static Mask16 live_of(int n) { return (Mask16)((1u << n) - 1u); }

  // Maxima and sums of a tile for the n queries from `at`.
  void take_in(F32x16 maximum, F32x16 sum, int64_t at, int n, Mask16 live, bool raw, Blend& blend) {
    blend.raw = raw;
    if (raw) {
      maximum.store_partial(d_.raw_running.maximum + at, n);
      sum.store_partial(d_.raw_running.sum + at, n);
    } else {
      enter(d_.running, at, n, maximum, sum, live, blend);
    }
  }

  // A piece for the NQ of its queries from q, which lie on the desk from `desk` on; their sums are those from `at`.
  template <int NQ>
  [[gnu::noinline]] void one(const Piece& piece, int q, int desk, int64_t at, bool raw) {
    const Visible seen = visible(piece, q, NQ);
    const float* x = d_.queries + (int64_t)desk * s_.padded;
    float* state = (raw ? d_.raw_state : d_.state) + at * s_.padded;
    const Mask16 live = live_lanes(seen, NQ);
    if (live == 0) return;
    int low = kTile, high = 0;
    for (int i = 0; i < NQ; ++i) {
      if (!(live >> i & 1)) continue;
      low = seen.low[i] < low ? seen.low[i] : low;
      high = seen.high[i] > high ? seen.high[i] : high;
    }
    const int begin = low / kBlock, end = (high + kBlock - 1) / kBlock;
    if constexpr (E::kProducts == Products::Pairs) {
      score_range_pairs<NQ>(blocks_, begin, end, (const Narrow*)x, (a_.kv.head_dim + 1) / 2, d_.scores, nullptr);
    } else if constexpr (E::kProducts == Products::Integers) {
      score_range_integers<NQ>(blocks_, begin, end, (const int16_t*)x, s_.padded, d_.factors + desk, d_.scores);
    } else {
      score_range<E, NQ>(blocks_, begin, end, x, a_.kv.head_dim, d_.scores);
    }
    alignas(64) float maximum[16] = {}, sum[16] = {};
    float units[NQ] = {};
    for (int i = 0; i < NQ; ++i) {  // all of them first: folding lanes takes long, but many at once
      if (live >> i & 1) maximum[i] = largest_score(d_.scores + i * kTile, seen.low[i], seen.high[i], curve_);
    }
    for (int i = 0; i < NQ; ++i) {
      if (!(live >> i & 1)) continue;
      float* scores = d_.scores + i * kTile;
      sum[i] = weigh<E>(scores, seen.low[i], seen.high[i], maximum[i]);
      if constexpr (E::kProducts == Products::Integers) {
        units[i] =
            narrow_weights(blocks_, seen.low[i] / kBlock, (seen.high[i] + kBlock - 1) / kBlock, s_.padded, scores);
      }
    }
    Blend blend;
    take_in(F32x16::load(maximum), F32x16::load(sum), at, NQ, live, raw, blend);
    if constexpr (E::kProducts == Products::Pairs) {
      return value_range_pairs<NQ, false>(blocks_, seen, d_.scores, blend, s_.padded, 0, state);
    }
    if constexpr (E::kProducts == Products::Integers) clear_unseen(seen, live, NQ, begin, end);
    with_parts<NQ>([&](auto size, int first) {
      constexpr int kPart = size.value;
      if (first > 0) blocks_.fetches = false;
      Visible part;
      for (int j = 0; j < kPart; ++j) {
        part.low[j] = seen.low[first + j];
        part.high[j] = seen.high[first + j];
      }
      const float* weights = d_.scores + first * kTile;
      float* sums = state + (int64_t)first * s_.padded;
      if constexpr (E::kProducts == Products::Integers) {
        value_range_integers<kPart>(blocks_, low / 2, (high + 1) / 2, weights, units + first, (Mask16)(live >> first),
                                    blend, s_.padded, 0, sums);
      } else if constexpr (E::kProducts == Products::Floats) {
        value_range<E, kPart>(blocks_, part, weights, blend, a_.kv.head_dim, 0, sums, s_.padded);
      }
      blend.skip(kPart);
    });
  }

  const AttentionArgs& a_;
  const Shape& s_;
  const Desk& d_;
  const Curve curve_;
  TileBlocks<E> blocks_;
  const Raw *next_[kTileBlocks], *branch_k_[kTileBlocks], *branch_v_[kTileBlocks];
};

template <class E>
void compute(const AttentionArgs& a, const Plan& plan, const Desk& desk, int thread, int threads) {
  const Shape& s = plan.shape;
  Header& header = *desk.header;
  header.head.rows = 0;
  header.tail_begin = header.tail_end = 0;
  header.tail_finishes = false;
  int64_t total = 0, start = 0;
  if (threads > 1) {
    for (Units it(a, s); !it.at_end(); it.next()) total += it.unit().cost * a.kv.kv_heads;
  } else {
    total = INT64_MAX / 4;
  }
  const int64_t from = total / threads * thread;
  const int64_t to = thread + 1 == threads ? INT64_MAX : total / threads * (thread + 1);
  Worker<E> worker(a, s, desk);
  for (Units it(a, s); !it.at_end() && start < to; it.next()) {
    const Unit& u = it.unit();
    Units after = it;
    after.next();
    for (int head = 0; head < a.kv.kv_heads;) {
      const Abreast heads = heads_of(a, s, u, head, start, from, to);
      if (heads.count == 0) break;
      head = heads.first + heads.count;
      const bool is_last = head == a.kv.kv_heads;
      worker.run(u, heads, is_last ? after.unit() : u, is_last ? 0 : head);
      for (int i = 0; i < heads.count; ++i) {
        const Share& share = heads.shares[i];
        if (share.is_all) {
          worker.finish(u, heads.first + i, i);
        } else if (share.is_raw()) {
          header.tail_begin = share.begin;
          header.tail_end = share.end;
          header.tail_finishes = share.is_last;
        } else {
          header.head = u;
          header.kv_head = heads.first + i;
          header.place = i;
        }
      }
    }
    start += u.cost * a.kv.kv_heads;
  }
}

// A thread that began a head takes in the tiles of the threads after it, in order, and finishes.
template <class E>
void merge(const AttentionArgs& a, const Plan& plan, char* scratch, int thread, int threads) {
  Desk desk, next;
  const auto at = [&](int t, Desk* d) { lay_out(plan.shape, plan.raw, scratch + plan.desk_bytes * t, d); };
  at(thread, &desk);
  const Header& left = *desk.header;
  const Unit u = left.head;
  if (u.rows == 0) return;
  Worker<E> worker(a, plan.shape, desk);
  for (int t = thread + 1; t < threads; ++t) {
    at(t, &next);
    worker.enter_raw(u, left.place, *next.header, next);
    if (next.header->tail_finishes) break;
  }
  worker.finish(u, left.kv_head, left.place);
}

size_t attention_scratch(const AttentionArgs& a, int threads) { return plan_of(a, threads).desk_bytes * threads; }

template <class E>
void run(const AttentionArgs& a, void* scratch, int phase, int thread, int threads) {
  if (phase == 1 && threads == 1) return;
  const Plan plan = plan_of(a, threads);
  if (phase == 1) return merge<E>(a, plan, (char*)scratch, thread, threads);
  Desk desk;
  lay_out(plan.shape, plan.raw, (char*)scratch + plan.desk_bytes * thread, &desk);
  compute<E>(a, plan, desk, thread, threads);
}

void attention(const AttentionArgs& a, void* scratch, int phase, int thread, int threads) {
  switch (a.kv.type) {
    case KvType::F16:
      return run<HalfElement>(a, scratch, phase, thread, threads);
    case KvType::BF16:
      return run<BrainElement>(a, scratch, phase, thread, threads);
    case KvType::F32:
      return run<SingleElement>(a, scratch, phase, thread, threads);
    case KvType::I8:
      return run<IntegerElement>(a, scratch, phase, thread, threads);
  }
}

}  // namespace

void fill_attention(Kernels& k) {
  k.attention_scratch = attention_scratch;
  k.attention = attention;
}

}  // namespace legato::LEGATO_ISA
