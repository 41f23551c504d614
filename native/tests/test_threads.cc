// The team of threads: every share is done once, phases order memory, sizes change nothing. And the plan's barriers.
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "../plan.h"
#include "../threads.h"

using namespace legato;

namespace {

int failures = 0;

void check(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

// Each share counts in its cell, then reads its neighbour's: only the end of a phase makes that right.
void test_phases(int count, int rounds) {
  Threads threads(count);
  std::vector<int> cells(static_cast<size_t>(count) * 16, 0);
  std::vector<int> wrong(static_cast<size_t>(count) * 16, 0);
  for (int step = 0; step < 3; ++step) {
    threads.run_phases([&](Threads::Member& member) {
      for (int round = 1; round <= rounds; ++round) {
        member.phase([&](int share) { ++cells[static_cast<size_t>(share) * 16]; });
        member.phase([&](int share) {
          const int neighbour = (share + 1) % count;
          wrong[static_cast<size_t>(share) * 16] += cells[static_cast<size_t>(neighbour) * 16] != step * rounds + round;
        });
      }
    });
  }
  for (const int errors : wrong)
    check(errors == 0, std::to_string(count) + " threads: a phase began before the last was over");
}

// Every piece of every stage is taken once, whether there are barriers between the stages or not.
void test_turns(int count, bool together) {
  constexpr uint64_t kStages = 300;
  Threads threads(count);
  Turns turns(count);
  std::vector<std::atomic<int>> taken(kStages * 16);
  const auto take = [&](uint64_t stage, int share) {
    const int64_t pieces = static_cast<int64_t>(stage % 16);  // fewer than threads, too
    turns.take(1 + stage, pieces, share, [&](int64_t piece) { ++taken[stage * 16 + static_cast<uint64_t>(piece)]; });
  };
  threads.run_phases([&](Threads::Member& member) {
    for (uint64_t stage = 0; together && stage < kStages; ++stage) {
      member.phase([&](int share) { take(stage, share); });
    }
    member.phase([&](int share) {
      for (uint64_t stage = 0; !together && stage < kStages; ++stage) take(stage, share);
    });
  });
  int wrong = 0;
  for (size_t i = 0; i < taken.size(); ++i) wrong += taken[i] != (i % 16 < i / 16 % 16 ? 1 : 0);
  check(wrong == 0, std::to_string(count) + " threads: a piece was not taken exactly once");
}

// After 2^40 stages the number begins anew.
void test_endless_turns() {
  constexpr uint64_t kEnd = 1ull << 40;
  Turns turns(1);
  for (const uint64_t stage : {uint64_t{1}, kEnd / 2, kEnd - 1, kEnd, kEnd + 1}) {
    int taken = 0;
    turns.take(stage, 5, 0, [&](int64_t) { ++taken; });
    turns.take(stage, 5, 0, [&](int64_t) { ++taken; });
    check(taken == 5, "stage " + std::to_string(stage) + ": a piece was not taken exactly once");
  }
}

// Idle work is done by one thread, to its end, when there is no job; jobs that come meanwhile run as ever.
void test_idle(int count) {
  std::atomic<int> done{0}, wanted{50};
  int at_once = 0;  // would be a race if two threads did it
  std::atomic<int> jobs{0};
  {
    Threads threads(count, [&] {
      if (done.load() >= wanted.load()) return false;
      done = ++at_once;
      return true;
    });
    for (int job = 0; job < 100; ++job) threads.run([&](int) { ++jobs; });
    while (done.load() < 50) std::this_thread::yield();
    check(jobs.load() == 100 * count, "idle work kept a job from running");
    wanted = 80;
    threads.run([&](int) { ++jobs; });  // wakes the thread
    while (done.load() < 80) std::this_thread::yield();
  }
  check(done.load() == 80, std::to_string(count) + " threads: idle work was not done once");
}

void work_for(std::chrono::microseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
  }
}

// Whom the system keeps from coming, nobody waits for: the others do what he should have done, and he joins them later.
void test_absence(int count) {
  constexpr int kJobs = 60, kPhases = 40;
  std::atomic<bool> is_kept{false};
  std::atomic<int> kept{0};
  Threads threads(count, [&] {
    kept += is_kept.load();
    while (is_kept.load()) std::this_thread::yield();
    return false;
  });
  std::vector<std::atomic<int>> done(static_cast<size_t>(kPhases * count));
  std::atomic<int> wrong{0};
  for (int job = 0; job < kJobs; ++job) {
    is_kept = job % 2 == 0;
    for (std::atomic<int>& times : done) times = 0;
    const int comes_back = job % 3 == 0 ? kPhases : job % kPhases;  // perhaps not before the end
    threads.run_phases([&](Threads::Member& member) {
      for (int phase = 0; phase < kPhases; ++phase) {
        member.phase([&](int share) {
          if (phase == comes_back) is_kept = false;
          ++done[static_cast<size_t>(phase * count + share)];
        });
        for (int share = 0; share < count; ++share) wrong += done[static_cast<size_t>(phase * count + share)] != 1;
      }
    });
    is_kept = false;
    work_for(std::chrono::microseconds(job % 4 * 50));
  }
  check(wrong.load() == 0, std::to_string(count) + " threads: a share was not done exactly once");
  check(kept.load() > 0, "nobody was kept from a job");
}

// However they met on one processor, the next job finds them on two.
void test_apart() {
  cpu_set_t all;
  sched_getaffinity(0, sizeof all, &all);
  if (CPU_COUNT(&all) < 2) return;
  Threads threads(2);
  int together = 0, apart = 0;
  for (int job = 0; job < 100; ++job) {
    const int here = sched_getcpu();
    threads.run([&](int thread) {
      if (thread == 0) return;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(static_cast<size_t>(here), &one);
      sched_setaffinity(0, sizeof one, &one);
      sched_setaffinity(0, sizeof all, &all);
    });
    int processors[2] = {-1, -1};
    threads.run_phases([&](Threads::Member& member) {
      member.phase([](int) { work_for(std::chrono::microseconds(500)); });  // long enough for both to come
      processors[member.thread()] = sched_getcpu();
    });
    ++(processors[0] == processors[1] ? together : apart);
  }
  // Other programs may need a processor, too; left alone, the two stay together in 69 to 100.
  check(apart > 60, "threads stayed on one processor in " + std::to_string(together) + " of 100 jobs");
}

void test_run(int count) {
  Threads threads(count);
  int total = 0;
  for (int step = 0; step < 200; ++step) {
    std::vector<int> calls(static_cast<size_t>(count), 0);
    threads.run([&](int thread) { ++calls[static_cast<size_t>(thread)]; });
    for (const int n : calls) total += n;
  }
  check(total == 200 * count, std::to_string(count) + " threads: a run left one out");
}

void test_shares() {
  for (const int64_t total : {0, 1, 2, 7, 36, 1000}) {
    for (const int threads : {1, 2, 3, 16}) {
      int64_t next = 0;
      for (int t = 0; t < threads; ++t) {
        const Share piece = share(total, t, threads);
        check(piece.begin == next && piece.end >= piece.begin, "shares are not contiguous");
        check(piece.end - piece.begin <= total / threads + 1, "shares are uneven");
        next = piece.end;
      }
      check(next == total, "shares miss something");
    }
  }
}

void test_plan() {
  const auto rows = [](int buffer, bool write) { return Access{{Resource::Buffer, buffer}, true, write, 0, 64}; };
  const auto part = [](int buffer, bool write, int64_t begin, int64_t end) {
    return Access{{Resource::Buffer, buffer}, false, write, begin, end};
  };
  Plan plan(true);
  plan.append(Sample{}, {rows(0, true)});                                 // rows of 0
  plan.append(Sample{}, {rows(0, false), rows(1, true)});                 // own rows: no barrier
  plan.append(Sample{}, {part(1, false, 0, 64), part(2, true, 0, 32)});   // all rows of 1: barrier
  plan.append(Sample{}, {part(1, false, 0, 64), part(2, true, 32, 64)});  // other columns of 2: none
  plan.append(Sample{}, {rows(1, true)});                                 // overwrites what others read: barrier
  plan.append(Sample{}, {rows(2, false)});                                // the barrier before covers 2 too
  plan.append(Sample{}, {part(1, false, 0, 8)});                          // barrier
  plan.append(Sample{}, {part(1, false, 8, 16)});                         // both read
  const bool expected[] = {false, false, true, false, true, false, true, false};
  for (size_t i = 0; i < plan.stages().size(); ++i) {
    check(plan.stages()[i].barrier == expected[i], "barrier of stage " + std::to_string(i));
  }
  Plan taking(false);  // a thread's rows change where stages by rows are interrupted
  taking.append(Sample{}, {rows(0, true)});
  taking.append(Sample{}, {part(1, true, 0, 64)});
  taking.append(Sample{}, {rows(0, false)});
  taking.append(Sample{}, {rows(0, false), rows(2, true)});
  const bool expected_taking[] = {false, true, true, false};
  for (size_t i = 0; i < taking.stages().size(); ++i) {
    check(taking.stages()[i].barrier == expected_taking[i], "barrier of stage by turns " + std::to_string(i));
    check(taking.stages()[i].by_rows == (i != 1), "sharing of stage " + std::to_string(i));
  }
}

}  // namespace

int main() {
  test_endless_turns();
  for (const int count : {1, 2, 3, 5}) {
    test_phases(count, count <= 2 ? 2000 : 200);
    test_run(count);
    if (count > 1) {
      test_idle(count);
      test_absence(count);
    }
    test_turns(count, true);
    test_turns(count, false);
  }
  test_apart();
  test_shares();
  test_plan();
  std::printf("%d failures\n", failures);
  return failures != 0;
}
