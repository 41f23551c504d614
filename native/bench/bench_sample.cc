// Time to sample one row. Usage: bench_sample [isa] [vocabulary] [part of a name]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../include/kernels.h"

using namespace legato;

int main(int argc, char** argv) {
  const char* isa = argc > 1 ? argv[1] : "avx512";
  const int64_t vocab = argc > 2 ? std::atoll(argv[2]) : 49152;
  const Kernels* table = kernels(isa);
  if (!table) {
    std::fprintf(stderr, "bench_sample: this machine does not run '%s'\n", isa);
    return 2;
  }
  constexpr int kRows = 64;
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 2.5f);
  std::vector<float> logits((size_t)(vocab * kRows));
  for (float& x : logits) x = normal(random);
  for (size_t i = 0; i < logits.size(); i += 5000) logits[i] += 8;  // a few likely ones, as a model gives
  std::vector<char> memory(table->sample_scratch(vocab) + 64);
  void* scratch = memory.data() + (64 - (uintptr_t)memory.data() % 64) % 64;
  std::vector<uint32_t> mask((size_t)vocab / 32 + 1, 0x5f5f5f5fu);
  std::vector<int32_t> output(300);
  for (int32_t& id : output) id = (int32_t)(random() % (unsigned)vocab);

  struct Setting {
    const char* name;
    float temperature, top_p, min_p;
    int top_k, logprobs;
    bool penalties, masked;
  };
  const Setting settings[] = {
      {"greedy", 0, 1, 0, 0, -1, false, false},
      {"greedy, log-probability", 0, 1, 0, 0, 0, false, false},
      {"greedy, 20 log-probabilities", 0, 1, 0, 0, 20, false, false},
      {"temperature", 1, 1, 0, 0, -1, false, false},
      {"top-k 50", 1, 1, 0, 50, -1, false, false},
      {"top-k 50, top-p 0.95", 0.7f, 0.95f, 0, 50, -1, false, false},
      {"top-k 1000", 1, 1, 0, 1000, -1, false, false},
      {"top-p 0.95", 1, 0.95f, 0, 0, -1, false, false},
      {"top-p 0.95, temperature 2", 2, 0.95f, 0, 0, -1, false, false},
      {"min-p 0.05", 1, 1, 0.05f, 0, -1, false, false},
      {"top-k 50, penalties, mask", 1, 1, 0, 50, -1, true, true},
  };
  for (const Setting& s : settings) {
    if (argc > 3 && !std::strstr(s.name, argv[3])) continue;
    SampleRow row{s.temperature,
                  s.top_p,
                  s.min_p,
                  1,
                  0,
                  0,
                  s.top_k,
                  -1,
                  s.logprobs,
                  1,
                  0,
                  nullptr,
                  0,
                  nullptr,
                  0,
                  nullptr,
                  nullptr,
                  0,
                  s.masked ? mask.data() : nullptr,
                  nullptr};
    if (s.penalties) {
      row.repetition_penalty = 1.1f;
      row.output_ids = output.data();
      row.output_count = (int32_t)output.size();
    }
    int32_t ids[32];
    float logprobs[32];
    std::vector<double> times;
    for (int r = 0; r < 10 * kRows; ++r) {
      row.draw_position = (uint64_t)r;
      SampleResult result{0, 0, 0, ids, logprobs};
      const auto begin = std::chrono::steady_clock::now();
      table->sample(logits.data() + r % kRows * vocab, vocab, row, result, scratch);
      times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
    }
    std::sort(times.begin(), times.end());
    std::printf("%-32s %8.1f us a row (best %8.1f)\n", s.name, times[times.size() / 2], times[times.size() / 20]);
  }
}
