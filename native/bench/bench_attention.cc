// Time of one attention layer for the shapes that matter, beside two reads of as many bytes of the same cache by the
// same threads: its blocks, in their order, and memory from end to end.
//
// Usage: bench_attention [isa] [threads] [part of a shape's name] [cache: float16 (default), bfloat16, int8]
//                        [blocks: grouped (default), scattered]
// grouped: a sequence's blocks follow each other in groups that lie anywhere, as in a pool with room; scattered: each
// block lies anywhere, as in one whose free blocks are remains.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../include/kernels.h"
#include "../kv_pool.h"

using namespace legato;

namespace {

struct Case {
  const char* name;
  int heads, kv_heads, head_dim, window, sequences, context, rows;  // rows: new tokens of each sequence
  int shared = 0;                                                   // positions that all of them begin with
};

// All threads of the team run `work` together, `repeats` times.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait() {
    const int round = round_.load();
    if (waiting_.fetch_add(1) + 1 == threads_) {
      waiting_ = 0;
      round_.fetch_add(1);
    } else {
      for (int spins = 0; round_.load() == round; ++spins) {
        if (spins > 10000) std::this_thread::yield();
      }
    }
  }

 private:
  int threads_;
  std::atomic<int> waiting_{0}, round_{0};
};

// Reads whole lines; what was read is of no use, but the compiler must not know.
void read_all(const void* data, size_t bytes) {
  uint64_t sums[8] = {};
  const uint64_t* words = (const uint64_t*)data;
  for (size_t i = 0; i + 8 <= bytes / 8; i += 8) {
    for (size_t j = 0; j < 8; ++j) sums[j] ^= words[i + j];
  }
  for (uint64_t& sum : sums) asm volatile("" : : "r"(sum));
}

// The same for pieces of memory anywhere, each line fetched 8 KB before it is read (4 and 16 KB are no better).
void read_pieces(const std::vector<const uint8_t*>& pieces, size_t bytes) {
  constexpr size_t kLine = 64, kAhead = 128 * kLine;
  size_t next = 0, at = 0;  // what is fetched: piece, offset
  const auto fetch_line = [&] {
    if (next == pieces.size()) return;
    __builtin_prefetch(pieces[next] + at, 0, 2);
    if ((at += kLine) == bytes) at = 0, ++next;
  };
  for (size_t i = 0; i < kAhead; i += kLine) fetch_line();
  uint64_t sums[8] = {};
  for (const uint8_t* piece : pieces) {
    for (size_t i = 0; i < bytes; i += kLine) {
      fetch_line();
      const uint64_t* words = (const uint64_t*)(piece + i);
      for (size_t j = 0; j < 8; ++j) sums[j] ^= words[j];
    }
  }
  for (uint64_t& sum : sums) asm volatile("" : : "r"(sum));
}

// Bytes that each thread reads of `total`.
size_t piece_of(size_t total, int threads) { return total / (size_t)threads / 64 * 64; }

void bench(const Kernels& table, const Case& c, int threads, KvType type, bool grouped) {
  constexpr int kLayers = 30;  // each call reads another layer, as a model does
  const int blocks_each = (c.context + c.rows + kBlock - 1) / kBlock;
  const int groups_each = (blocks_each + kKvGroup - 1) / kKvGroup, blocks = groups_each * kKvGroup * c.sequences;
  const size_t part_bytes = (size_t)kv_head_bytes(type, c.head_dim);
  const size_t layer_bytes = 2 * (size_t)c.kv_heads * part_bytes * (size_t)blocks;
  const int layers = (int)std::max<size_t>(1, std::min<size_t>(kLayers, ((size_t)1 << 30) / layer_bytes));
  KvPool pool(layers, blocks, type, c.kv_heads, c.head_dim);
  uint16_t* const halves = (uint16_t*)pool.memory()->data();
  for (size_t i = 0; i < pool.memory()->size() / 2; ++i) halves[i] = (uint16_t)(0x2c00 + i * 7919 % 1024);
  // Shuffled: with a fixed distance between two groups, threads side by side may meet in the same bank of memory all
  // the time, or never.
  const int stays = grouped ? kKvGroup : 1;  // so many blocks stay together
  std::vector<int32_t> moved((size_t)(blocks / stays)), tables, positions, sequences;
  for (size_t i = 0; i < moved.size(); ++i) moved[i] = (int32_t)i;
  std::shuffle(moved.begin(), moved.end(), std::mt19937(7));
  for (int s = 0; s < c.sequences; ++s) {
    for (int b = 0; b < blocks_each; ++b) {
      const int place = (b < c.shared / kBlock ? 0 : s) * groups_each * kKvGroup + b;
      tables.push_back(moved[(size_t)(place / stays)] * stays + place % stays);
    }
  }
  for (int s = 0; s < c.sequences; ++s) {
    for (int r = 0; r < c.rows; ++r) {
      positions.push_back(c.context + r);
      sequences.push_back(s);
    }
  }
  const int width = c.heads * c.head_dim;
  std::vector<float> q(positions.size() * (size_t)width, 0.1f), out(q.size());
  AttentionArgs a{q.data(),         width,
                  out.data(),       width,
                  pool[0],          positions.data(),
                  sequences.data(), tables.data(),
                  blocks_each,      (int)positions.size(),
                  c.heads,          c.window,
                  0.125f,           0};
  std::vector<char> memory(table.attention_scratch(a, threads) + 64);
  char* scratch = memory.data() + (64 - (uintptr_t)memory.data() % 64) % 64;
  Barrier barrier(threads);
  const int repeats = 5;
  const auto attend = [&](int layer, int thread) {
    AttentionArgs mine = a;
    mine.kv = pool[layer];
    table.attention(mine, scratch, 0, thread, threads);
    barrier.wait();
    table.attention(mine, scratch, 1, thread, threads);
  };
  // Head after head, as attention does.
  const size_t tables_size = tables.size(), parts = tables_size * (size_t)c.kv_heads;
  const auto read_blocks = [&](int layer, int thread) {
    const KvLayer& kv = pool[layer];
    std::vector<const uint8_t*> pieces;
    for (size_t i = parts * (size_t)thread / (size_t)threads; i < parts * (size_t)(thread + 1) / (size_t)threads; ++i) {
      const int64_t at = kv.at(tables[i % tables_size], (int64_t)(i / tables_size));
      pieces.push_back(kv.k + at);
      pieces.push_back(kv.v + at);
    }
    read_pieces(pieces, part_bytes);
  };
  const size_t read_bytes = 2 * parts * part_bytes;
  const auto read_plainly = [&](int layer, int thread) {
    const size_t piece = piece_of(read_bytes, threads);
    read_all(pool.memory()->data() + (size_t)layer * read_bytes + (size_t)thread * piece, piece);
  };
  std::vector<double> times, block_reads, plain_reads;
  const auto measure = [&](const auto& run, int thread, std::vector<double>& spent) {
    for (int layer = 0; layer < layers; ++layer) {
      const auto begin = std::chrono::steady_clock::now();
      run(layer, thread);
      barrier.wait();
      const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - begin;
      if (thread == 0) spent.push_back(time.count());
    }
  };
  const auto work = [&](int thread) {
    for (int r = 0; r < repeats; ++r) {
      measure(attend, thread, times);
      measure(read_blocks, thread, block_reads);
      measure(read_plainly, thread, plain_reads);
    }
  };
  std::vector<std::thread> team;
  for (int t = 1; t < threads; ++t) team.emplace_back(work, t);
  work(0);
  for (auto& t : team) t.join();
  for (auto* spent : {&times, &block_reads, &plain_reads}) std::sort(spent->begin(), spent->end());
  const double plain = (double)read_bytes / plain_reads[plain_reads.size() / 2] * 1e-3;
  const double scattered = (double)read_bytes / block_reads[block_reads.size() / 2] * 1e-3;
  const double median = times[times.size() / 2], best = times[times.size() / 20];  // the fastest twentieth
  double seen = 0;                                                                 // pairs of row and position
  for (int p : positions) seen += c.window ? std::min(p + 1, c.window) : p + 1;
  const double positions_read =
      (double)c.sequences * (c.window ? std::min(c.context + c.rows, c.window + c.rows) : c.context + c.rows);
  const double bytes = positions_read * c.kv_heads * (double)kv_head_bytes(type, c.head_dim) / (kBlock / 2);
  std::printf(
      "%-36s %9.1f us/layer (best %8.1f)  %7.1f GFLOP/s %6.1f GB/s (median %5.1f; read of blocks %5.1f, plain %5.1f)\n",
      c.name, median, best, seen * c.heads * c.head_dim * 4 / best * 1e-3, bytes / best * 1e-3, bytes / median * 1e-3,
      scattered, plain);
}

}  // namespace

int main(int argc, char** argv) {
  const char* isa = argc > 1 ? argv[1] : "avx512";
  const int threads = argc > 2 ? std::atoi(argv[2]) : 2;
  const Kernels* table = kernels(isa);
  if (!table) {
    std::fprintf(stderr, "bench_attention: this machine does not run '%s'\n", isa);
    return 2;
  }
  const std::string named = argc > 4 ? argv[4] : "float16";
  const KvType type = named == "int8" ? KvType::I8 : named == "bfloat16" ? KvType::BF16 : KvType::F16;
  const bool grouped = argc <= 5 || std::string(argv[5]) != "scattered";
  const Case cases[] = {
      {"smollm2 decode 1 x 64", 9, 3, 64, 0, 1, 63, 1},
      {"smollm2 decode 1 x 512", 9, 3, 64, 0, 1, 511, 1},
      {"smollm2 decode 1 x 8192", 9, 3, 64, 0, 1, 8191, 1},
      {"smollm2 decode 1 x 32768", 9, 3, 64, 0, 1, 32767, 1},
      {"smollm2 decode 32 x 384", 9, 3, 64, 0, 32, 383, 1},
      {"smollm2 decode 64 x 256", 9, 3, 64, 0, 64, 255, 1},
      {"smollm2 decode 16 x 1120", 9, 3, 64, 0, 16, 1119, 1},
      {"smollm2 decode 16 x 1120, 1024 shared", 9, 3, 64, 0, 16, 1119, 1, 1024},
      {"smollm2 prefill 512", 9, 3, 64, 0, 1, 0, 512},
      {"smollm2 prefill 512 at 4096", 9, 3, 64, 0, 1, 4096, 512},
      {"smollm2 2 rows at 8192", 9, 3, 64, 0, 1, 8190, 2},
      {"smollm2 4 rows at 8192", 9, 3, 64, 0, 1, 8188, 4},
      {"smollm2 8 rows at 8192", 9, 3, 64, 0, 1, 8184, 8},
      {"smollm2 16 rows at 8192", 9, 3, 64, 0, 1, 8192, 16},
      {"smollm2 64 rows at 8192", 9, 3, 64, 0, 1, 8192, 64},
      {"gemma3-270m decode 1 x 2048 (w 512)", 4, 1, 256, 512, 1, 2047, 1},
      {"gemma3-270m prefill 512 (w 512)", 4, 1, 256, 512, 1, 0, 512},
      {"llama-1b decode 1 x 2048", 32, 8, 64, 0, 1, 2047, 1},
      {"llama-1b decode 1 x 8192", 32, 8, 64, 0, 1, 8191, 1},
      {"llama-1b decode 1 x 32768", 32, 8, 64, 0, 1, 32767, 1},
      {"qwen2.5-7b decode 1 x 256", 28, 4, 128, 0, 1, 255, 1},
      {"qwen2.5-7b decode 1 x 8192", 28, 4, 128, 0, 1, 8191, 1},
      {"qwen2.5-7b decode 1 x 32768", 28, 4, 128, 0, 1, 32767, 1},
      {"llama-1b prefill 512", 32, 8, 64, 0, 1, 0, 512},
      {"qwen2-0.5b prefill 512 (14/2)", 14, 2, 64, 0, 1, 0, 512},
      {"mha 16/16 x 64 decode 1 x 1024", 16, 16, 64, 0, 1, 1023, 1},
      {"mha 16/16 x 128 prefill 256", 16, 16, 128, 0, 1, 0, 256},
  };
  for (const Case& c : cases) {
    if (argc <= 3 || std::strstr(c.name, argv[3])) bench(*table, c, threads, type, grouped);
  }
}
