// A persistent team of threads that run one function together, phase by phase.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace legato {

class Threads {
 public:
  // Work for moments without any other, done piece by piece; false: nothing is left.
  using Idle = std::function<bool()>;

  // `count` includes the caller of run(): one thread starts none. One of the others does a piece of `idle` after each
  // job, and all of it before it goes to sleep.
  explicit Threads(int count, Idle idle = {});
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const { return count_; }

  // A thread of the team while it is at a job.
  class Member {
   public:
    // Calls work(share) once for each share in [0, count), and returns when all are done; what was written before is
    // seen by all after. Every member of a job comes to the same phases. A thread has the share of its number; where
    // the system keeps one from coming, another does its share: who computes must not change what is computed.
    template <class Work>
    void phase(const Work& work) {
      ++phase_;
      do_share(thread_, work);
      while (!team_.await_others(*this)) {
        for (int share = 0; share < team_.count_; ++share) does_all_ |= do_share(share, work);
      }
    }
    int thread() const { return thread_; }

   private:
    friend class Threads;
    Member(Threads& team, int thread, uint32_t phase) : team_(team), thread_(thread), phase_(phase) {}

    template <class Work>
    bool do_share(int share, const Work& work) {
      if (!team_.take(share, phase_)) return false;
      work(share);
      team_.arrive(phase_);
      return true;
    }

    Threads& team_;
    const int thread_;
    uint32_t phase_;         // the number of the last one it began, of all that the team ever had
    bool does_all_ = false;  // somebody did not come to the last phase
  };

  // Calls work(member) on every thread that comes in time, on the caller at once, and returns when all have left it.
  // `work` must not throw. Not reentrant.
  template <class Work>
  void run_phases(const Work& work) {
    start([](const void* context, Member& member) { (*static_cast<const Work*>(context))(member); }, &work);
  }

  // A job of one phase.
  template <class Work>
  void run(const Work& work) {
    run_phases([&](Member& member) { member.phase(work); });
  }

 private:
  using Entry = void (*)(const void* context, Member& member);
  void start(Entry entry, const void* context);
  void serve(int thread);
  bool await_job(int thread);
  bool await_others(Member& member);
  bool take(int share, uint32_t phase);
  void arrive(uint32_t phase);
  void note_place(int thread);
  void take_place(int thread);

  struct alignas(64) Place {
    std::atomic<uint32_t> taken{0};  // the last phase in which somebody took the share of this number
    uint32_t job = 0;                // that the thread came to last
    std::atomic<uint64_t> seat{0};   // job << 32 | the processor it was last seen on
  };

  // Each has a cache line of its own: waiting threads read theirs all the time. All count modulo 2^32.
  alignas(64) std::atomic<uint32_t> done_{0};    // shares of all phases ever
  alignas(64) std::atomic<uint32_t> job_{0};     // odd while there is one
  alignas(64) std::atomic<uint32_t> inside_{0};  // threads besides the caller that may be at it
  alignas(64) Entry entry_ = nullptr;            // null asks the threads to end
  const void* context_ = nullptr;
  uint32_t phases_ = 0;  // of the jobs before
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
      // Of the number 40 bits are there: after years it begins anew.
      const int64_t ahead = static_cast<int64_t>((old >> 24) - stage << 24);
      const uint64_t taken = ahead == 0 ? old & 0xffffff : 0;
      if (ahead > 0 || static_cast<int64_t>(taken) >= count) return count;
      const uint64_t fresh = stage << 24 | (taken + 1);
      if (word.compare_exchange_weak(old, fresh, std::memory_order_relaxed)) return static_cast<int64_t>(taken);
    }
  }

  std::vector<Taken> shares_;
};

}  // namespace legato
