// A persistent team of threads that run one function together, with barriers inside it.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace legato {

class Threads {
 public:
  // Work for moments without any, done piece by piece; false: nothing is left.
  using Idle = std::function<bool()>;

  // `count` includes the caller of run(): one thread starts none. Before one of the others goes to sleep, it does what
  // `idle` has to do; a job that comes waits for the piece at hand.
  explicit Threads(int count, Idle idle = {});
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const { return count_; }

  // Calls work(thread) on every thread at once, on the caller as thread 0, and returns when all have finished.
  // `work` must not throw. Not reentrant.
  template <class Work>
  void run(const Work& work) {
    start([](const void* context, int thread) { (*static_cast<const Work*>(context))(thread); }, &work);
  }

  // Inside run(), called with the thread's number: waits until every thread is here. What was written before is seen
  // by all after.
  void barrier(int thread);

 private:
  using Entry = void (*)(const void* context, int thread);
  void start(Entry entry, const void* context);
  void serve(int thread);
  void note_place(int thread);
  void take_place(int thread);

  struct alignas(64) Place {
    uint32_t target = 0;            // what arrived_ is when everybody has come to the thread's next barrier
    uint32_t job = 0;               // that the thread began last
    std::atomic<uint64_t> seat{0};  // job << 32 | the processor it was last seen on
  };

  // Each has a cache line of its own: waiting threads read theirs all the time. Both count modulo 2^32.
  alignas(64) std::atomic<uint32_t> arrived_{0};  // at barriers, by all threads, ever
  alignas(64) std::atomic<uint32_t> job_{0};
  alignas(64) Entry entry_ = nullptr;  // null asks the threads to end
  const void* context_ = nullptr;
  const int count_;
  const bool has_room_;  // a processor for each, and more than one of them
  const Idle idle_;
  std::vector<Place> places_;
  std::vector<std::thread> workers_;
};

// [begin, end) of `total` pieces for one thread: contiguous, sizes differ by at most one.
struct Share {
  int64_t begin, end;
};
inline Share share(int64_t total, int thread, int threads) {
  return {total * thread / threads, total * (thread + 1) / threads};
}

// Pieces of a stage, each taken by one thread: first those of its own share, then what is left of the others', so that
// a thread that the system held up does not hold up the team.
//
// A stage has a number that all threads know; a share is opened for a stage by the first that takes from it. Stages
// need no barrier between them, but their numbers must grow.
class Turns {
 public:
  explicit Turns(int threads) : shares_(threads) {}

  // Calls work(piece) until none of `total` < 2^24 pieces is left.
  template <class Work>
  void take(uint64_t stage, int64_t total, int thread, const Work& work) {
    const int threads = static_cast<int>(shares_.size());
    for (int i = 0; i < threads; ++i) {
      const int owner = thread + i < threads ? thread + i : thread + i - threads;
      const Share all = share(total, owner, threads);
      for (int64_t piece; (piece = all.begin + next(shares_[owner].word, stage, all.end - all.begin)) < all.end;) {
        work(piece);
      }
    }
  }

 private:
  struct alignas(64) Taken {
    std::atomic<uint64_t> word{0};  // the stage's number << 24 | pieces of the share that are taken
  };

  // The number of the next piece, or `count` if there is none: all are taken, or the share's owner is stages ahead.
  static int64_t next(std::atomic<uint64_t>& word, uint64_t stage, int64_t count) {
    uint64_t old = word.load(std::memory_order_relaxed);
    while (true) {
      const uint64_t opened = old >> 24, taken = opened == stage ? old & 0xffffff : 0;
      if (opened > stage || static_cast<int64_t>(taken) >= count) return count;
      const uint64_t fresh = stage << 24 | (taken + 1);
      if (word.compare_exchange_weak(old, fresh, std::memory_order_relaxed)) return static_cast<int64_t>(taken);
    }
  }

  std::vector<Taken> shares_;
};

}  // namespace legato
