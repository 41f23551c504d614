// Who computes what: units of attention work, their shares between threads, and the scratch memory of each thread.
//
// A unit is (a few rows of one sequence) x (the query heads of one KV head). Threads take contiguous shares of all
// units by cost. A unit may be cut between threads at a tile border: the later thread stores its tiles raw, and phase 1
// lets them enter the state in order, so the bits do not depend on where the cut was.
#pragma once
#include "attention_kernels.h"

namespace legato::LEGATO_ISA {
namespace {

constexpr int kUnitFloats = 4096;       // scaled queries of a unit stay in the first-level cache
constexpr int64_t kCutBytes = 4 << 20;  // a unit whose raw tiles would be larger is not cut
struct Unit {
  int row, rows, kv_head;
  int low, high;  // positions seen by any of its rows: [low, high)
  int tile_low() const { return low / kTile; }
  int tile_high() const { return (high + kTile - 1) / kTile; }
};

struct Shape {
  int group, row_limit, queries, padded;  // query heads per KV head; rows, queries of a unit at most; head_dim padded
};

Shape shape_of(const AttentionArgs& a) {
  const int group = a.heads / a.kv.kv_heads, padded = (a.kv.head_dim + 15) / 16 * 16;
  const int queries = kUnitFloats / padded < 48 ? kUnitFloats / padded : 48;
  const int rows = queries / group > 1 ? queries / group : 1;
  return {group, rows, rows * group, padded};
}

int first_seen(const AttentionArgs& a, int row) {
  const int low = a.window > 0 ? a.positions[row] - a.window + 1 : 0;
  return low > 0 ? low : 0;
}

// The units of one call in their fixed order: rows outermost, so that a thread's share of a decode batch is whole
// sequences.
class Units {
 public:
  Units(const AttentionArgs& a, const Shape& s) : a_(a), s_(s) { group_rows(); }
  bool at_end() const { return unit_.rows == 0; }
  const Unit& unit() const { return unit_; }
  void next() {
    if (++unit_.kv_head == a_.kv.kv_heads) next_rows();
  }
  void next_rows() {  // to the first KV head of the next rows: all KV heads of a row cost the same
    unit_.row += unit_.rows;
    group_rows();
  }

 private:
  void group_rows() {
    int n = 0;
    const int row = unit_.row;
    while (n < s_.row_limit && row + n < a_.rows && a_.sequences[row + n] == a_.sequences[row]) ++n;
    unit_.rows = n;
    unit_.kv_head = 0;
    if (n == 0) return;
    unit_.low = first_seen(a_, row);
    unit_.high = a_.positions[row + n - 1] + 1;
  }

  const AttentionArgs& a_;
  const Shape& s_;
  Unit unit_{};
};

// Cost of a unit up to the absolute position `to`, in arbitrary units.
int64_t cost_up_to(const Unit& u, const Shape& s, int to) {
  const int seen = to < u.low ? 0 : (to < u.high ? to : u.high) - u.low;
  return (int64_t)seen * (8 + u.rows * s.group) + (to > u.low ? 64 : 0);
}
int64_t cost_of(const Unit& u, const Shape& s) { return cost_up_to(u, s, u.high); }

bool may_cut(const Unit& u, const Shape& s) {
  return (int64_t)(u.tile_high() - u.tile_low()) * u.rows * s.group * s.padded * 4 <= kCutBytes;
}

// Tiles of a unit that the thread with the cost interval [from, to) owns; `start` is the unit's first cost.
struct Share {
  int begin, end;
};
Share share_of(const Unit& u, const Shape& s, int64_t start, int64_t from, int64_t to) {
  const int first = u.tile_low(), last = u.tile_high();
  if (start >= from && start + cost_of(u, s) <= to) return {first, last};
  if (!may_cut(u, s)) {
    const int64_t middle = start + cost_of(u, s) / 2;
    return middle >= from && middle < to ? Share{first, last} : Share{first, first};
  }
  Share share{last, first};
  for (int t = first; t < last; ++t) {
    const int64_t middle = start + (cost_up_to(u, s, t * kTile) + cost_up_to(u, s, (t + 1) * kTile)) / 2;
    if (middle < from || middle >= to) continue;
    share.begin = t < share.begin ? t : share.begin;
    share.end = t + 1;
  }
  return share;
}

// Running softmax of up to 16 queries, a query to a lane.
struct Running {
  alignas(64) float maximum[16], sum[16];
};

// What a thread leaves for phase 1.
struct Header {
  Unit head;                 // the unit that it began but did not finish; rows == 0: none
  int tail_begin, tail_end;  // raw tiles of the unit that it entered midway; empty: none
  bool tail_finishes;        // the last tile of that unit is among them
};

// One thread's part of the scratch memory.
struct Desk {
  Header* header;
  float* queries;        // scaled; per sub-block [head_dim][NQ], as integers [head_dim / 2][NQ][2]
  float* factors;        // of queries as integers
  float* state;          // [queries][padded]
  float* scores;         // [kMaxQueries][kTile]
  Running* running;      // [sub-blocks]
  float* raw_state;      // [tiles][queries][padded]
  Running* raw_running;  // [tiles][sub-blocks]
};

constexpr size_t align64(size_t n) { return (n + 63) / 64 * 64; }

// The most tiles that a cut unit of this call can have.
int raw_tiles(const AttentionArgs& a, const Shape& s, int threads) {
  if (threads == 1) return 0;
  int most = 0;
  for (Units it(a, s); !it.at_end(); it.next_rows()) {
    const int tiles = it.unit().tile_high() - it.unit().tile_low();
    if (tiles > most && may_cut(it.unit(), s)) most = tiles;
  }
  return most;
}

// Sub-blocks of a unit never exceed its queries. Returns the bytes of a desk; sets *desk unless base is null.
size_t lay_out(const Shape& s, int tiles, char* base, Desk* desk) {
  size_t at = 0;
  const auto take = [&](size_t bytes) {
    char* p = base ? base + at : nullptr;
    at += align64(bytes);
    return p;
  };
  Desk d;
  d.header = (Header*)take(sizeof(Header));
  d.queries = (float*)take(sizeof(float) * s.queries * s.padded);
  d.factors = (float*)take(sizeof(float) * s.queries);
  d.state = (float*)take(sizeof(float) * s.queries * s.padded);
  d.scores = (float*)take(sizeof(float) * kMaxQueries * kTile);
  d.running = (Running*)take(sizeof(Running) * s.queries);
  d.raw_state = (float*)take(sizeof(float) * tiles * s.queries * s.padded);
  d.raw_running = (Running*)take(sizeof(Running) * tiles * s.queries);
  if (desk) *desk = d;
  return at;
}

struct Plan {
  Shape shape;
  int tiles;
  size_t desk_bytes;
};
Plan plan_of(const AttentionArgs& a, int threads) {
  Plan p;
  p.shape = shape_of(a);
  p.tiles = raw_tiles(a, p.shape, threads);
  p.desk_bytes = lay_out(p.shape, p.tiles, nullptr, nullptr);
  return p;
}

}  // namespace
}  // namespace legato::LEGATO_ISA
