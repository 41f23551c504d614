// A persistent team of threads that run one function together, with barriers inside it.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace legato {

class Threads {
 public:
  // `count` includes the caller of run(): one thread starts none.
  explicit Threads(int count);
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

  // Inside run(): waits until every thread is here. What was written before is seen by all after.
  void barrier();

 private:
  using Entry = void (*)(const void* context, int thread);
  void start(Entry entry, const void* context);
  void serve(int thread);

  // Each counter has a cache line of its own: waiting threads read theirs all the time.
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<uint32_t> job_{0};
  alignas(64) Entry entry_ = nullptr;  // null asks the threads to end
  const void* context_ = nullptr;
  const int count_;
  std::vector<std::thread> workers_;
};

// [begin, end) of `total` pieces for one thread: contiguous, sizes differ by at most one.
struct Share {
  int64_t begin, end;
};
inline Share share(int64_t total, int thread, int threads) {
  return {total * thread / threads, total * (thread + 1) / threads};
}

}  // namespace legato
