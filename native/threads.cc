#include "threads.h"

#include <sched.h>

#include <utility>

namespace legato {
namespace {

// About 20 microseconds: longer than the imbalance between two threads at a barrier. Then others may have the
// processor, but for about a millisecond more it is not left to sleep: waking it takes 50 microseconds and more on
// virtual machines, and a step is often interrupted for less than that, or soon followed by the next.
constexpr int kSpins = 1000, kYields = 2000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when `value` has reached `target`: spins, gives way, does what `idle` has to do, then sleeps. True: it slept.
bool await(const std::atomic<uint32_t>& value, uint32_t target, const Threads::Idle& idle = {}) {
  const auto reached = [&](uint32_t now) { return static_cast<int32_t>(now - target) >= 0; };
  for (int i = 0; i < kSpins + kYields; ++i) {
    if (reached(value.load(std::memory_order_acquire))) return false;
    i < kSpins ? pause() : static_cast<void>(sched_yield());
  }
  while (idle && !reached(value.load(std::memory_order_acquire)) && idle()) {
  }
  bool has_slept = false;
  for (uint32_t now; !reached(now = value.load(std::memory_order_acquire)); has_slept = true) {
    value.wait(now, std::memory_order_acquire);
  }
  return has_slept;
}

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
  if (count_ > 1) {
    ++places_[0].job;
    take_place(0);
    entry_ = entry;
    context_ = context;
    job_.fetch_add(1);  // sequentially consistent: seen before notify looks for sleepers
    job_.notify_all();
  }
  entry(context, 0);
  barrier(0);
}

void Threads::serve(int thread) {
  const Idle nobody;
  while (true) {
    await(job_, ++places_[thread].job, thread == 1 ? idle_ : nobody);
    if (entry_ == nullptr) return;
    take_place(thread);
    entry_(context_, thread);
    barrier(thread);
  }
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

void Threads::barrier(int thread) {
  if (count_ == 1) return;
  note_place(thread);
  const uint32_t target = places_[thread].target += static_cast<uint32_t>(count_);
  if (arrived_.fetch_add(1) + 1 == target) {
    arrived_.notify_all();
  } else if (await(arrived_, target)) {
    take_place(thread);
  }
}

}  // namespace legato
