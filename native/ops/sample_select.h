// Choosing the likeliest tokens without sorting the vocabulary.
//
// Tokens are ordered by value, falling, and by id, rising, among equals: a total order, so that every selection is a
// prefix of it and has one answer.
#pragma once
#include "../simd/simd.h"

namespace legato::LEGATO_ISA {
namespace {

struct Candidate {
  float value;  // after bias and penalties, before temperature
  int32_t id;
  float weight;  // exp((value - greatest) / temperature)
};

inline bool before(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

// Lanes [at, count) of x; the others are -inf.
inline F32x16 load_or_hidden(const float* x, int64_t at, int64_t count) {
  if (at + kLanes <= count) return F32x16::load(x + at);
  const int n = (int)(count - at);
  return select((Mask16)((1u << n) - 1u), F32x16::load_partial(x + at, n), F32x16::splat(-__builtin_inff()));
}

// Moves what comes before c[pivot] to the front of c[low, high); returns the pivot's new place.
inline int64_t partition(Candidate* c, int64_t low, int64_t high, int64_t pivot) {
  const Candidate middle = c[pivot];
  c[pivot] = c[high - 1];
  int64_t end = low;
  for (int64_t i = low; i < high - 1; ++i) {
    const Candidate x = c[i];
    if (!before(x, middle)) continue;
    c[i] = c[end];
    c[end++] = x;
  }
  c[high - 1] = c[end];
  c[end] = middle;
  return end;
}

// A pivot that no order of the input makes bad on purpose.
inline int64_t pivot_of(const Candidate* c, int64_t low, int64_t high) {
  const uint64_t n = (uint64_t)(high - low);
  const int64_t a = low + (int64_t)((n * 0x9e3779b97f4a7c15ull >> 33) % n), b = low + (int64_t)(n / 2), d = high - 1;
  if (before(c[a], c[b])) return before(c[b], c[d]) ? b : before(c[a], c[d]) ? d : a;
  return before(c[a], c[d]) ? a : before(c[b], c[d]) ? d : b;
}

// The first `count` in order come to the front, in any order.
inline void select_count(Candidate* c, int64_t n, int64_t count) {
  int64_t low = 0, high = n;
  while (high - low > 1) {
    const int64_t at = partition(c, low, high, pivot_of(c, low, high));
    if (at == count || at + 1 == count) return;
    if (at > count) {
      high = at;
    } else {
      low = at + 1;
    }
  }
}

// The shortest prefix in order whose weights reach `target` comes to the front; returns its length (at least 1).
inline int64_t select_mass(Candidate* c, int64_t n, double target) {
  int64_t low = 0, high = n;
  double mass = 0;  // of c[0, low)
  while (low < high) {
    const int64_t at = partition(c, low, high, pivot_of(c, low, high));
    double left = mass;
    for (int64_t i = low; i < at; ++i) left += (double)c[i].weight;
    if (at > low && left >= target) {
      high = at;
      continue;
    }
    mass = left + (double)c[at].weight;
    low = at + 1;
    if (mass >= target) break;
  }
  return low > 0 ? low : 1;
}

// Falling order, in place (heap sort: few elements, no recursion).
inline void sort_falling(Candidate* c, int64_t n) {
  const auto sink = [&](int64_t at, int64_t end) {  // heap with the last in order on top
    for (int64_t child; (child = 2 * at + 1) < end; at = child) {
      if (child + 1 < end && before(c[child], c[child + 1])) ++child;
      if (!before(c[at], c[child])) return;
      const Candidate x = c[at];
      c[at] = c[child];
      c[child] = x;
    }
  };
  for (int64_t i = n / 2; i-- > 0;) sink(i, n);
  for (int64_t end = n - 1; end > 0; --end) {
    const Candidate x = c[0];
    c[0] = c[end];
    c[end] = x;
    sink(0, end);
  }
}

// Every token with low <= value <= high, ids rising.
inline int64_t collect(const float* values, int64_t vocab, float low, float high, Candidate* out) {
  const F32x16 least = F32x16::splat(low), most = F32x16::splat(high);
  int64_t n = 0;
  for (int64_t at = 0; at < vocab; at += kLanes) {
    const F32x16 x = load_or_hidden(values, at, vocab);
    unsigned m = (unsigned)(Mask16) ~(less(x, least) | less(most, x));
    if (vocab - at < kLanes) m &= (1u << (vocab - at)) - 1u;
    for (; m != 0; m &= m - 1) {
      const int32_t id = (int32_t)at + __builtin_ctz(m);
      out[n++] = {values[id], id, 0.0f};
    }
  }
  return n;
}

// The `count` first tokens in order, unordered, in `out` (room for vocab); returns how many: count, or vocab if
// that is less. The count-th greatest of at least `count` maxima of disjoint sets bounds the count-th greatest value
// from below, so that few tokens remain to be looked at.
inline int64_t select_top(const float* values, int64_t vocab, int64_t count, Candidate* out) {
  const float infinity = __builtin_inff();
  if (count >= vocab) return collect(values, vocab, -infinity, infinity, out);
  const int64_t vectors = vocab / kLanes;
  // Vectors under one vector of maxima; for a count of one, all of them (16 maxima are more than enough).
  int64_t stripe = vectors * kLanes / (8 * count);
  stripe = stripe < vectors ? stripe : vectors;
  float threshold = -infinity;
  if (stripe >= 2) {
    int64_t n = 0;
    for (int64_t v = 0; v + stripe <= vectors; v += stripe) {
      F32x16 most = F32x16::load(values + v * kLanes);
      for (int64_t i = 1; i < stripe; ++i) most = max(most, F32x16::load(values + (v + i) * kLanes));
      float maxima[kLanes];
      most.store(maxima);
      for (int i = 0; i < kLanes; ++i, ++n) out[n] = {maxima[i], (int32_t)n, 0.0f};
    }
    select_count(out, n, count);
    threshold = out[0].value;
    for (int64_t i = 1; i < count; ++i) threshold = out[i].value < threshold ? out[i].value : threshold;
  }
  const int64_t n = collect(values, vocab, threshold, infinity, out);
  select_count(out, n, count);
  return count;
}

}  // namespace
}  // namespace legato::LEGATO_ISA
