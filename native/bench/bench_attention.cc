// Time of one attention layer for the shapes that matter, beside a plain read of the same cache by the same threads.
// Usage: bench_attention [isa] [threads] [part of a shape's name] [cache: float16 (default), bfloat16, int8]
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "../include/kernels.h"
#include "../memory.h"

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

// Bytes that each thread reads of `total`.
size_t piece_of(size_t total, int threads) { return total / (size_t)threads / 64 * 64; }

void bench(const Kernels& table, const Case& c, int threads, KvType type) {
  constexpr int kLayers = 30;  // each call reads another layer, as a model does
  const int blocks_each = (c.context + c.rows + kBlock - 1) / kBlock, blocks = blocks_each * c.sequences;
  const size_t layer_bytes = (size_t)(blocks * c.kv_heads * kv_head_bytes(type, c.head_dim));
  const int layers = (int)std::max<size_t>(1, std::min<size_t>(kLayers, ((size_t)512 << 20) / layer_bytes));
  const Region k(layer_bytes * (size_t)layers, Pages::Huge), v(k.size(), Pages::Huge);  // as in a model
  for (const Region* memory : {&k, &v}) {
    uint16_t* const halves = (uint16_t*)memory->data();
    for (size_t i = 0; i < memory->size() / 2; ++i) halves[i] = (uint16_t)(0x2c00 + i * 7919 % 1024);
  }
  std::vector<int32_t> tables((size_t)blocks), positions, sequences;
  for (int i = 0; i < blocks; ++i) {
    const bool is_shared = i % blocks_each < c.shared / kBlock;
    tables[(size_t)i] = is_shared ? tables[(size_t)(i % blocks_each)] : (int32_t)(i * 7919LL % blocks);
    if (i < blocks_each) tables[(size_t)i] = (int32_t)(i * 7919LL % blocks);
  }
  for (int s = 0; s < c.sequences; ++s) {
    for (int r = 0; r < c.rows; ++r) {
      positions.push_back(c.context + r);
      sequences.push_back(s);
    }
  }
  const int width = c.heads * c.head_dim;
  std::vector<float> q(positions.size() * (size_t)width, 0.1f), out(q.size());
  AttentionArgs a{q.data(),
                  width,
                  out.data(),
                  width,
                  {type, c.kv_heads, c.head_dim, nullptr, nullptr, blocks, (int64_t)layer_bytes / blocks},
                  positions.data(),
                  sequences.data(),
                  tables.data(),
                  blocks_each,
                  (int)positions.size(),
                  c.heads,
                  c.window,
                  0.125f,
                  0};
  std::vector<char> memory(table.attention_scratch(a, threads) + 64);
  char* scratch = memory.data() + (64 - (uintptr_t)memory.data() % 64) % 64;
  Barrier barrier(threads);
  const int repeats = 5;
  std::vector<double> times, reads;
  const auto read = [&](int layer, int thread) {
    const size_t piece = piece_of(layer_bytes, threads), at = (size_t)layer * layer_bytes + (size_t)thread * piece;
    read_all(k.data() + at, piece);
    read_all(v.data() + at, piece);
  };
  const auto work = [&](int thread) {
    for (int r = 0; r < repeats; ++r) {
      for (int layer = 0; layer < layers; ++layer) {
        const auto begin = std::chrono::steady_clock::now();
        AttentionArgs mine = a;
        mine.kv.k = k.data() + (size_t)layer * layer_bytes;
        mine.kv.v = v.data() + (size_t)layer * layer_bytes;
        table.attention(mine, scratch, 0, thread, threads);
        barrier.wait();
        table.attention(mine, scratch, 1, thread, threads);
        barrier.wait();
        const std::chrono::duration<double, std::micro> spent = std::chrono::steady_clock::now() - begin;
        if (thread == 0) times.push_back(spent.count());
      }
      for (int layer = 0; layer < layers; ++layer) {
        const auto begin = std::chrono::steady_clock::now();
        read(layer, thread);
        barrier.wait();
        const std::chrono::duration<double, std::micro> spent = std::chrono::steady_clock::now() - begin;
        if (thread == 0) reads.push_back(spent.count());
      }
    }
  };
  std::vector<std::thread> team;
  for (int t = 1; t < threads; ++t) team.emplace_back(work, t);
  work(0);
  for (auto& t : team) t.join();
  std::sort(times.begin(), times.end());
  std::sort(reads.begin(), reads.end());
  const double plain = 2.0 * (double)piece_of(layer_bytes, threads) * threads / reads[reads.size() / 2] * 1e-3;
  const double median = times[times.size() / 2], best = times[times.size() / 20];  // the fastest twentieth
  double seen = 0;                                                                 // pairs of row and position
  for (int p : positions) seen += c.window ? std::min(p + 1, c.window) : p + 1;
  const double positions_read =
      (double)c.sequences * (c.window ? std::min(c.context + c.rows, c.window + c.rows) : c.context + c.rows);
  const double bytes = positions_read * c.kv_heads * (double)kv_head_bytes(type, c.head_dim) / (kBlock / 2);
  std::printf("%-36s %9.1f us/layer (best %8.1f)  %7.1f GFLOP/s %6.1f GB/s (median %5.1f; plain read %5.1f)\n", c.name,
              median, best, seen * c.heads * c.head_dim * 4 / best * 1e-3, bytes / best * 1e-3, bytes / median * 1e-3,
              plain);
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
      {"smollm2 16 rows at 8192", 9, 3, 64, 0, 1, 8192, 16},
      {"smollm2 64 rows at 8192", 9, 3, 64, 0, 1, 8192, 64},
      {"gemma3-270m decode 1 x 2048 (w 512)", 4, 1, 256, 512, 1, 2047, 1},
      {"gemma3-270m prefill 512 (w 512)", 4, 1, 256, 512, 1, 0, 512},
      {"llama-1b decode 1 x 2048", 32, 8, 64, 0, 1, 2047, 1},
      {"llama-1b decode 1 x 8192", 32, 8, 64, 0, 1, 8191, 1},
      {"llama-1b decode 1 x 32768", 32, 8, 64, 0, 1, 32767, 1},
      {"qwen2.5-7b decode 1 x 8192", 28, 4, 128, 0, 1, 8191, 1},
      {"qwen2.5-7b decode 1 x 32768", 28, 4, 128, 0, 1, 32767, 1},
      {"llama-1b prefill 512", 32, 8, 64, 0, 1, 0, 512},
      {"qwen2-0.5b prefill 512 (14/2)", 14, 2, 64, 0, 1, 0, 512},
      {"mha 16/16 x 64 decode 1 x 1024", 16, 16, 64, 0, 1, 1023, 1},
      {"mha 16/16 x 128 prefill 256", 16, 16, 128, 0, 1, 0, 256},
  };
  for (const Case& c : cases) {
    if (argc <= 3 || std::strstr(c.name, argv[3])) bench(*table, c, threads, type);
  }
}
