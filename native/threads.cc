#include "threads.h"

#include <sched.h>

#include <algorithm>
#include <utility>

namespace legato {
namespace {

// About 20 microseconds: longer than the imbalance between two threads at a barrier. Then others may have the
// processor, but for about a millisecond more it is not left to sleep: waking it takes 50 microseconds and more on
// virtual machines, and a step is often interrupted for less than that, or soon followed by the next.
constexpr int kSpins = 1000, kYields = 2000;
// Spins after which a thread that has not come to a phase counts as kept away. The next phases do not wait for it at
// all, until it is seen again.
constexpr int kPatience = 200;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when `is_there(value)`: spins, gives way, then sleeps. True: it slept.
template <class Is>
bool await(const std::atomic<uint32_t>& value, const Is& is_there) {
  for (int i = 0; i < kSpins + kYields; ++i) {
    if (is_there(value.load(std::memory_order_acquire))) return false;
    i < kSpins ? pause() : static_cast<void>(sched_yield());
  }
  bool has_slept = false;
  for (uint32_t now; !is_there(now = value.load(std::memory_order_acquire)); has_slept = true) {
    value.wait(now, std::memory_order_acquire);
  }
  return has_slept;
}

bool has_reached(uint32_t now, uint32_t target) { return static_cast<int32_t>(now - target) >= 0; }

// The processors that the calling thread may run on; none if the system does not tell.
cpu_set_t allowed() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) CPU_ZERO(&set);
  return set;
}

int processors() {
  const cpu_set_t set = allowed();
  return CPU_COUNT(&set);
}

}  // namespace

Threads::Threads(int count, Idle idle)
    : count_(count), has_room_(count > 1 && processors() >= count), idle_(std::move(idle)), places_(count) {
  for (int thread = 1; thread < count; ++thread) {
    workers_.emplace_back([this, thread] { serve(thread); });
  }
}

Threads::~Threads() {
  entry_ = nullptr;
  job_.fetch_add(1);
  job_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Threads::start(Entry entry, const void* context) {
  Member caller(*this, 0, phases_);
  if (count_ == 1) {
    entry(context, caller);
    phases_ = caller.phase_;
    return;
  }
  entry_ = entry;
  context_ = context;
  places_[0].job = job_.fetch_add(1) + 1;  // sequentially consistent: seen before notify looks for sleepers
  job_.notify_all();
  take_place(0);
  entry(context, caller);
  // Who comes from now on finds no job; who came before may still be on his way out. Either this sees him inside, or he
  // sees that the job is over: both orders are sequentially consistent.
  job_.fetch_add(1);
  await(inside_, [](uint32_t inside) { return inside == 0; });
  phases_ = caller.phase_;
}

void Threads::serve(int thread) {
  while (true) {
    if (!await_job(thread)) continue;
    inside_.fetch_add(1);
    const uint32_t job = job_.load();
    const bool is_on = job % 2 != 0 && job != places_[thread].job, ends = is_on && entry_ == nullptr;
    if (is_on && !ends) {
      places_[thread].job = job;
      take_place(thread);
      Member member(*this, thread, phases_);
      entry_(context_, member);
    }
    if (inside_.fetch_sub(1) == 1) inside_.notify_one();
    if (ends) return;
  }
}

// Whether there seems to be one that the thread has not been at.
bool Threads::await_job(int thread) {
  const auto is_new = [&](uint32_t now) { return now % 2 != 0 && now != places_[thread].job; };
  const bool is_idle = thread == 1 && idle_;
  if (is_idle) idle_();  // a piece even where jobs follow each other: others begin the next one
  for (int i = 0; i < kSpins + kYields; ++i) {
    if (is_new(job_.load(std::memory_order_acquire))) return true;
    i < kSpins ? pause() : static_cast<void>(sched_yield());
  }
  while (is_idle && !is_new(job_.load(std::memory_order_acquire)) && idle_()) {
  }
  const uint32_t now = job_.load(std::memory_order_acquire);
  if (!is_new(now)) job_.wait(now, std::memory_order_acquire);
  return is_new(job_.load(std::memory_order_acquire));
}

// Whether the share is the caller's to do.
bool Threads::take(int share, uint32_t phase) {
  std::atomic<uint32_t>& taken = places_[share].taken;
  uint32_t last = taken.load(std::memory_order_relaxed);
  return !has_reached(last, phase) && taken.compare_exchange_strong(last, phase, std::memory_order_acq_rel);
}

void Threads::arrive(uint32_t phase) {
  if (done_.fetch_add(1) + 1 == phase * static_cast<uint32_t>(count_)) done_.notify_all();
}

// True: all shares of the member's phase are done. False: some may not have been begun.
bool Threads::await_others(Member& member) {
  if (count_ == 1) return true;
  note_place(member.thread_);
  const uint32_t target = member.phase_ * static_cast<uint32_t>(count_);
  const auto is_over = [&](uint32_t done) { return has_reached(done, target); };
  for (int i = member.does_all_ ? kPatience : 0; i < kPatience; ++i) {
    if (is_over(done_.load(std::memory_order_acquire))) return true;
    pause();
  }
  const auto all_taken = [&] {
    return std::all_of(places_.begin(), places_.end(), [&](const Place& place) {
      return has_reached(place.taken.load(std::memory_order_relaxed), member.phase_);
    });
  };
  if (!all_taken()) {
    if (!member.does_all_) sched_yield();  // it may be waiting for this very processor
    if (!all_taken()) return false;
  }
  if (is_over(done_.load(std::memory_order_acquire))) return true;
  member.does_all_ = false;
  if (await(done_, is_over)) take_place(member.thread_);
  return true;
}

void Threads::note_place(int thread) {
  if (!has_room_) return;
  const uint64_t seat = uint64_t{places_[thread].job} << 32 | static_cast<uint32_t>(sched_getcpu());
  if (places_[thread].seat.load(std::memory_order_relaxed) != seat) places_[thread].seat.store(seat);
}

// Leaves a processor that another one of the team has. A thread that slept is often woken where its waker runs, since
// the others were taken for a moment; there the two take turns, each waiting for the other at every barrier, until the
// kernel balances its processors: ten milliseconds, three steps of a small model.
void Threads::take_place(int thread) {
  if (!has_room_) return;
  note_place(thread);
  const uint64_t here = places_[thread].seat.load();
  bool is_taken = false;
  for (int other = 0; other < count_; ++other) is_taken |= other != thread && places_[other].seat.load() == here;
  if (!is_taken) return;
  const cpu_set_t all = allowed();
  cpu_set_t free = all;
  for (const Place& place : places_) {
    const uint64_t seat = place.seat.load();
    if (seat >> 32 == places_[thread].job) CPU_CLR(static_cast<uint32_t>(seat), &free);
  }
  if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof free, &free) != 0) return;
  sched_setaffinity(0, sizeof all, &all);  // it is there; from now on it may be moved again
  note_place(thread);
}

}  // namespace legato
