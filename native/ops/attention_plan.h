// Who computes what: units of attention work, their shares between threads, and the scratch memory of each thread.
//
// A unit is a few rows. They belong to one sequence, or to several that begin with the same blocks (a common prompt):
// what lies there is then read once for all of them, and what follows for each sequence alone. So a unit is a list of
// pieces, each a tile for some of its rows: first the trunk, which all share, then the branches. A row meets its tiles
// in ascending order, whoever shares them.
//
// For each KV head a unit's pieces are computed for the query heads that share it. Threads take contiguous shares of
// all units' heads by cost. A head may be cut between threads at a piece's border: the later thread stores its pieces
// raw, and phase 1 lets them enter the state in order, so the bits do not depend on where the cut was.
//
// Of a unit with few queries a thread takes several heads abreast, piece by piece, because their parts of a tile lie
// side by side: memory is faster in long lines.
#pragma once
#include "attention_kernels.h"

namespace legato::LEGATO_ISA {
namespace {

constexpr int kUnitFloats = 4096;       // scaled queries of what is taken at once stay in the first-level cache
constexpr int kFewParts = 4;            // groups of rows for each thread, below which a cut is noticed
constexpr int kMostAbreast = 32;        // heads
constexpr int64_t kCutBytes = 4 << 20;  // a head whose raw pieces would be larger is not cut
struct Unit {
  int row, rows;
  int low, high;  // positions seen by any of its rows: [low, high)
  int trunk;      // tiles below it are shared by all rows; of one sequence all are
  int64_t cost;   // of each KV head, in arbitrary units
  int tile_low() const { return low / kTile; }
  bool is_shared() const { return trunk * kTile < high; }  // by several sequences, of which some have more
};

struct Shape {
  int group, row_limit;  // query heads per KV head; rows of a unit at most
  int queries, padded;   // queries at most that are taken at once, of one head or several; head_dim padded
  // KV heads of a unit that are taken abreast at most.
  int abreast(const Unit& u) const {
    const int heads = queries / (u.rows * group);
    return heads < kMostAbreast ? heads : kMostAbreast;
  }
};

Shape shape_of(const AttentionArgs& a, int threads) {
  const int group = a.heads / a.kv.kv_heads, padded = (a.kv.head_dim + 15) / 16 * 16;
  const int queries = kUnitFloats / padded < 48 ? kUnitFloats / padded : 48;
  int rows = queries / group > 1 ? queries / group : 1;
  // Of a few large units, one would be cut between threads, and a part of it be handed over. Smaller ones divide
  // evenly.
  const int least = (kMostScores + group - 1) / group, parts = (a.rows + rows - 1) / rows;
  if (parts * a.kv.kv_heads % threads != 0 && parts < threads * kFewParts) {
    const int even = (parts + threads - 1) / threads * threads, smaller = (a.rows + even - 1) / even;
    if (smaller >= least && smaller < rows) rows = smaller;
  }
  const int most = kUnitFloats / padded;
  return {group, rows, most > rows * group ? most : rows * group, padded};
}

int first_seen(const AttentionArgs& a, int row) {
  const int low = a.window > 0 ? a.positions[row] - a.window + 1 : 0;
  return low > 0 ? low : 0;
}

int rows_of_one(const AttentionArgs& a, int row, int most) {  // that follow each other in one sequence
  int n = 1;
  while (n < most && row + n < a.rows && a.sequences[row + n] == a.sequences[row]) ++n;
  return n;
}

constexpr int tiles_until(int position) { return (position + kTile - 1) / kTile; }

// One tile for rows [row, row + rows).
struct Piece {
  int tile, row, rows;
  int low, high;  // positions seen by any of them, in this tile and others
  int64_t slot;   // queries of the unit's pieces before this one
};

// The pieces of a unit in their fixed order.
class Pieces {
 public:
  Pieces(const AttentionArgs& a, const Shape& s, const Unit& u)
      : a_(a), group_(s.group), unit_end_(u.row + u.rows), trunk_(u.trunk) {
    const int trunk_high = u.trunk * kTile < u.high ? u.trunk * kTile : u.high;
    piece_ = {u.tile_low(), u.row, u.rows, u.low, trunk_high, 0};
    end_ = u.trunk;
    is_trunk_ = true;
    leave_finished();
  }
  bool at_end() const { return piece_.row == unit_end_; }
  const Piece& piece() const { return piece_; }
  void next() {
    piece_.slot += piece_.rows * group_;
    ++piece_.tile;
    leave_finished();
  }

 private:
  void leave_finished() {
    while (piece_.tile >= end_ && !at_end()) {
      if (!is_trunk_) piece_.row += piece_.rows;
      is_trunk_ = false;
      if (at_end()) return;
      piece_.rows = rows_of_one(a_, piece_.row, unit_end_ - piece_.row);
      piece_.low = first_seen(a_, piece_.row);
      piece_.high = a_.positions[piece_.row + piece_.rows - 1] + 1;
      piece_.tile = piece_.low / kTile > trunk_ ? piece_.low / kTile : trunk_;
      end_ = tiles_until(piece_.high);
    }
  }

  const AttentionArgs& a_;
  const int group_, unit_end_, trunk_;
  Piece piece_;
  int end_;
  bool is_trunk_;
};

int64_t cost_of(const Piece& p, const Shape& s) {
  const int from = p.low > p.tile * kTile ? p.low : p.tile * kTile;
  const int to = p.high < (p.tile + 1) * kTile ? p.high : (p.tile + 1) * kTile;
  return (int64_t)(to - from) * (8 + p.rows * s.group);
}

// The units of one call in their fixed order. All heads of one follow each other, so that a thread's share of a decode
// batch is whole sequences, or groups of them.
class Units {
 public:
  Units(const AttentionArgs& a, const Shape& s) : a_(a), s_(s) { group_rows(); }
  bool at_end() const { return unit_.rows == 0; }
  const Unit& unit() const { return unit_; }
  void next() {
    unit_.row += unit_.rows;
    group_rows();
  }

 private:
  void group_rows() {
    unit_.rows = 0;
    if (unit_.row == a_.rows) return;
    unit_.rows = rows_of_one(a_, unit_.row, s_.row_limit);
    unit_.low = first_seen(a_, unit_.row);
    unit_.high = a_.positions[unit_.row + unit_.rows - 1] + 1;
    unit_.trunk = tiles_until(unit_.high);
    bool is_shared = false;
    while (unit_.rows < s_.row_limit && unit_.row + unit_.rows < a_.rows && join(is_shared)) is_shared = true;
    unit_.cost = cost(is_shared);
  }

  // The next sequence's rows join the unit, if most of what is shared already is shared with them too.
  bool join(bool is_shared) {
    const int next = unit_.row + unit_.rows, low = first_seen(a_, next), from = (unit_.low < low ? unit_.low : low);
    const int first = from / kTile, trunk = shared_until(unit_.row, next, first);
    if (trunk <= first || (is_shared && 2 * (trunk - first) < unit_.trunk - first)) return false;
    const int rows = rows_of_one(a_, next, s_.row_limit - unit_.rows), high = a_.positions[next + rows - 1] + 1;
    unit_.rows += rows;
    unit_.low = from;
    unit_.high = unit_.high > high ? unit_.high : high;
    unit_.trunk = trunk < unit_.trunk ? trunk : unit_.trunk;
    return true;
  }

  // Tiles [first, result) lie in the same blocks for both rows, whole, and neither row is in them or before them.
  int shared_until(int row, int other, int first) const {
    const int32_t* table = a_.block_tables + a_.sequences[row] * a_.table_stride;
    const int32_t* others = a_.block_tables + a_.sequences[other] * a_.table_stride;
    const int last = a_.positions[row] < a_.positions[other] ? a_.positions[row] : a_.positions[other];
    int block = first * kTileBlocks;
    const int end = (last + 1) / kTile * kTileBlocks;
    while (block < end && table[block] == others[block]) ++block;
    return block < end ? block / kTileBlocks : end / kTileBlocks;
  }

  int64_t cost(bool is_shared) const {
    if (!is_shared) return (int64_t)(unit_.high - unit_.low) * (8 + unit_.rows * s_.group) + 64;
    int64_t sum = 64;
    for (Pieces it(a_, s_, unit_); !it.at_end(); it.next()) sum += cost_of(it.piece(), s_);
    return sum;
  }

  const AttentionArgs& a_;
  const Shape& s_;
  Unit unit_{};
};

int64_t queries_of_pieces(const AttentionArgs& a, const Shape& s, const Unit& u) {
  int64_t sum = 0;
  for (Pieces it(a, s, u); !it.at_end(); it.next()) sum += it.piece().rows * s.group;
  return sum;
}

bool may_cut(const AttentionArgs& a, const Shape& s, const Unit& u) {
  return queries_of_pieces(a, s, u) * s.padded * 4 <= kCutBytes;
}

// Pieces of a unit's head that the thread with the cost interval [from, to) owns; `start` is the head's first cost.
struct Share {
  int begin, end;
  bool is_all, is_last;  // of the head; it holds the head's last piece
  bool is_empty() const { return begin >= end; }
  bool has(int piece) const { return piece >= begin && piece < end; }
  bool is_raw() const { return begin > 0; }  // each piece is stored apart, for phase 1
};
Share share_of(const AttentionArgs& a, const Shape& s, const Unit& u, int64_t start, int64_t from, int64_t to) {
  if (start >= from && start + u.cost <= to) return {0, INT32_MAX, true, true};
  if (!may_cut(a, s, u)) {
    const int64_t middle = start + u.cost / 2;
    const bool is_all = middle >= from && middle < to;
    return {0, is_all ? INT32_MAX : 0, is_all, is_all};
  }
  Share share{INT32_MAX, 0, false, false};
  int index = 0;
  int64_t cost = start;
  for (Pieces it(a, s, u); !it.at_end(); it.next(), ++index) {
    const int64_t before = cost;
    cost += cost_of(it.piece(), s);
    const int64_t middle = before + (cost - before) / 2;
    if (middle < from || middle >= to) continue;
    share.begin = index < share.begin ? index : share.begin;
    share.end = index + 1;
  }
  share.is_last = share.end == index;
  share.is_all = share.begin == 0 && share.is_last;
  return share;
}

// Neighbouring KV heads of a unit that a thread takes abreast. Only the first may be raw.
struct Abreast {
  int first = 0, count = 0;
  Share shares[kMostAbreast];

  // The first that has the piece, from the i-th on; count: none.
  int having(int piece, int i) const {
    while (i < count && !shares[i].has(piece)) ++i;
    return i;
  }
};

// The next heads of a unit, from `first` on, that the thread with the cost interval [from, to) takes; `start` is the
// unit's first cost.
Abreast heads_of(const AttentionArgs& a, const Shape& s, const Unit& u, int first, int64_t start, int64_t from,
                 int64_t to) {
  Abreast heads;
  const int most = s.abreast(u);
  for (int h = first; h < a.kv.kv_heads && heads.count < most && start + h * u.cost < to; ++h) {
    if (start + (h + 1) * u.cost <= from) continue;
    const Share share = share_of(a, s, u, start + h * u.cost, from, to);
    if (share.is_empty()) continue;
    if (heads.count == 0) heads.first = h;
    heads.shares[heads.count++] = share;
  }
  return heads;
}

// What a thread leaves for phase 1.
struct Header {
  Unit head;                 // the unit of which it began a head but did not finish it; rows == 0: none
  int kv_head, place;        // that head, and which it was of those abreast
  int tail_begin, tail_end;  // raw pieces of the head that it entered midway; empty: none
  bool tail_finishes;        // the last piece of that head is among them
};

// Running softmax of queries.
struct Running {
  float *maximum, *sum;  // [queries]
};

// One thread's part of the scratch memory.
struct Desk {
  Header* header;
  float* queries;  // scaled; per sub-block [head_dim][NQ], as pairs or integers [head_dim / 2][NQ][2]
  float* factors;  // of queries as integers
  float* state;    // [queries][padded]
  float* scores;   // [kMaxQueries][kTile]
  Running running;
  float* raw_state;  // [queries of all pieces][padded]
  Running raw_running;
};

constexpr size_t align64(size_t n) { return (n + 63) / 64 * 64; }

// The most queries that all pieces of a cut head of this call can have.
int64_t raw_queries(const AttentionArgs& a, const Shape& s, int threads) {
  if (threads == 1) return 0;
  int64_t most = 0;
  for (Units it(a, s); !it.at_end(); it.next()) {
    const int64_t queries = queries_of_pieces(a, s, it.unit());
    if (queries > most && queries * s.padded * 4 <= kCutBytes) most = queries;
  }
  return most;
}

// Returns the bytes of a desk; sets *desk unless base is null. Maxima and sums are read 16 at a time.
size_t lay_out(const Shape& s, int64_t raw, char* base, Desk* desk) {
  size_t at = 0;
  const auto take = [&](int64_t bytes) {
    char* p = base ? base + at : nullptr;
    at += align64((size_t)bytes);
    return p;
  };
  Desk d;
  d.header = (Header*)take(sizeof(Header));
  d.queries = (float*)take(4 * s.queries * s.padded);
  d.factors = (float*)take(4 * s.queries);
  d.state = (float*)take(4 * s.queries * s.padded);
  d.scores = (float*)take(4 * kMaxQueries * kTile);
  d.running = {(float*)take(4 * (s.queries + 16)), (float*)take(4 * (s.queries + 16))};
  d.raw_state = (float*)take(4 * raw * s.padded);
  d.raw_running = {(float*)take(4 * (raw + 16)), (float*)take(4 * (raw + 16))};
  if (desk) *desk = d;
  return at;
}

struct Plan {
  Shape shape;
  int64_t raw;
  size_t desk_bytes;
};
Plan plan_of(const AttentionArgs& a, int threads) {
  Plan p;
  p.shape = shape_of(a, threads);
  p.raw = raw_queries(a, p.shape, threads);
  p.desk_bytes = lay_out(p.shape, p.raw, nullptr, nullptr);
  return p;
}

}  // namespace
}  // namespace legato::LEGATO_ISA
