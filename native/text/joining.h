// Byte-pair encoding of one word: neighbours are joined, the best pair first, of equal ones the left, until none may be
// (Sennrich et al., 2016, https://arxiv.org/abs/1508.07909).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace legato {

// A stretch of the word. `id` -1: no token.
struct Part {
  uint32_t start, length;  // bytes; length 0: joined to the one before it
  int32_t id;
  int32_t previous, next;
};

// What two neighbours become; the best rank is 0. `id` -1: they stay apart.
struct Joined {
  int32_t rank = 0;
  int32_t id = -1;
};

// One word after the other, with the memory of the last.
class Joining {
 public:
  void begin() { parts_.clear(); }
  void add(uint32_t start, uint32_t length, int32_t id) {
    const int32_t index = static_cast<int32_t>(parts_.size());
    parts_.push_back({start, length, id, index - 1, index + 1});
  }

  // `rule(left, right)` says what two parts become, and `take(part)` is called with what is left, in order.
  template <class Rule, class Take>
  void finish(const Rule& rule, const Take& take) {
    if (parts_.empty()) return;
    parts_.back().next = -1;
    for (size_t left = 0; left + 1 < parts_.size(); ++left) offer(rule, static_cast<int32_t>(left));
    while (!joins_.empty()) join_best(rule);
    for (int32_t at = 0; at >= 0; at = part(at).next) take(part(at));
  }

 private:
  struct Join {
    int32_t rank, left;
    uint32_t length;  // of both parts: if it is another by now, one of them has been joined to a third
    int32_t id;
    bool operator<(const Join& other) const {  // the greatest is taken first
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };

  Part& part(int32_t index) { return parts_[static_cast<size_t>(index)]; }

  template <class Rule>
  void offer(const Rule& rule, int32_t index) {
    const Part& left = part(index);
    if (left.next < 0) return;
    const Part& right = part(left.next);
    if (left.id < 0 || right.id < 0) return;
    const Joined joined = rule(left, right);
    if (joined.id < 0) return;
    joins_.push_back({joined.rank, index, left.length + right.length, joined.id});
    std::push_heap(joins_.begin(), joins_.end());
  }

  template <class Rule>
  void join_best(const Rule& rule) {
    std::pop_heap(joins_.begin(), joins_.end());
    const Join join = joins_.back();
    joins_.pop_back();
    Part& left = part(join.left);
    if (left.length == 0 || left.next < 0) return;
    Part& right = part(left.next);
    if (left.length + right.length != join.length) return;
    left.length = join.length;
    left.id = join.id;
    left.next = right.next;
    right.length = 0;
    if (left.next >= 0) part(left.next).previous = join.left;
    if (left.previous >= 0) offer(rule, left.previous);
    offer(rule, join.left);
  }

  std::vector<Part> parts_;
  std::vector<Join> joins_;  // a heap
};

}  // namespace legato
