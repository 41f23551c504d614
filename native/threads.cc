#include "threads.h"

namespace legato {
namespace {

// About 20 microseconds: longer than the imbalance between two threads at a barrier, short enough to leave the
// processor to others soon when one of our threads has been descheduled.
constexpr int kSpins = 1000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when value differs from `old`: spins, then sleeps.
void await_change(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

// Sequentially consistent, so that the store is visible before notify looks for sleepers.
void change(std::atomic<uint32_t>& value, uint32_t next) {
  value.store(next, std::memory_order_seq_cst);
  value.notify_all();
}

}  // namespace

Threads::Threads(int count) : count_(count) {
  for (int thread = 1; thread < count; ++thread) {
    workers_.emplace_back([this, thread] { serve(thread); });
  }
}

Threads::~Threads() {
  entry_ = nullptr;
  change(job_, job_.load(std::memory_order_relaxed) + 1);
  for (std::thread& worker : workers_) worker.join();
}

void Threads::start(Entry entry, const void* context) {
  if (count_ > 1) {
    entry_ = entry;
    context_ = context;
    change(job_, job_.load(std::memory_order_relaxed) + 1);
  }
  entry(context, 0);
  barrier();
}

void Threads::serve(int thread) {
  for (uint32_t job = 0;;) {
    await_change(job_, job++);
    if (entry_ == nullptr) return;
    entry_(context_, thread);
    barrier();
  }
}

void Threads::barrier() {
  if (count_ == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_relaxed);  // cannot change before this thread arrives
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(count_)) {
    arrived_.store(0, std::memory_order_relaxed);
    change(phase_, phase + 1);
  } else {
    await_change(phase_, phase);
  }
}

}  // namespace legato
