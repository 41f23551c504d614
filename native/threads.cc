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

// Returns when `value` has reached `target`: spins, gives way, does what `idle` has to do, then sleeps.
void await(const std::atomic<uint32_t>& value, uint32_t target, const Threads::Idle& idle = {}) {
  const auto reached = [&](uint32_t now) { return static_cast<int32_t>(now - target) >= 0; };
  for (int i = 0; i < kSpins + kYields; ++i) {
    if (reached(value.load(std::memory_order_acquire))) return;
    i < kSpins ? pause() : static_cast<void>(sched_yield());
  }
  while (idle && !reached(value.load(std::memory_order_acquire)) && idle()) {
  }
  for (uint32_t now; !reached(now = value.load(std::memory_order_acquire));) {
    value.wait(now, std::memory_order_acquire);
  }
}

}  // namespace

Threads::Threads(int count, Idle idle) : count_(count), idle_(std::move(idle)), places_(count) {
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
  for (uint32_t job = 0;;) {
    await(job_, ++job, thread == 1 ? idle_ : nobody);
    if (entry_ == nullptr) return;
    entry_(context_, thread);
    barrier(thread);
  }
}

void Threads::barrier(int thread) {
  if (count_ == 1) return;
  const uint32_t target = places_[thread].target += static_cast<uint32_t>(count_);
  if (arrived_.fetch_add(1) + 1 == target) {
    arrived_.notify_all();
  } else {
    await(arrived_, target);
  }
}

}  // namespace legato
