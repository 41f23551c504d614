// A small program from end to end, without Python: the same bits with any number of threads, whether products are
// shared by outputs or by rows. Widths differ, so that parts which get in each other's way are noticed (build with
// -DCMAKE_CXX_FLAGS=-fsanitize=thread to be sure).
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>

#include "../cpu/dispatch.h"
#include "../program.h"

using namespace legato;

namespace {

constexpr int kHidden = 64, kHeads = 4, kKvHeads = 2, kHeadDim = 32, kInner = 320, kVocabulary = 100, kLayers = 3;
constexpr int kQ = kHeads * kHeadDim, kKv = kKvHeads * kHeadDim;
int failures = 0;

void check(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

int random_matrix(Program& program, int64_t rows, int64_t columns, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 0.2f);
  std::vector<float> values(static_cast<size_t>(rows * columns));
  for (float& x : values) x = normal(random);
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  return program.matrix("F32", {{rows, columns, bytes, values.size() * sizeof(float)}});
}

int ones(Program& program, int64_t count) {
  const std::vector<float> values(static_cast<size_t>(count), 1.0f);
  return program.vector(values.data(), count);
}

void build(Program& p) {
  std::mt19937 random(1);
  const int x = p.buffer(kHidden), normed = p.buffer(kHidden), qkv = p.buffer(kQ + 2 * kKv), heads = p.buffer(kQ);
  const int gate_up = p.buffer(2 * kInner), inner = p.buffer(kInner);
  const int norm = ones(p, kHidden), table = p.rope_table(ones(p, kHeadDim / 2), 1.0f);
  const int embedding = random_matrix(p, kVocabulary, kHidden, random);
  p.kv_cache(kLayers, 64, kKvHeads, kHeadDim, "float16");
  p.embed(embedding, x, 1.0f);
  for (int layer = 0; layer < kLayers; ++layer) {
    p.rms_norm(x, norm, normed, 1e-5f);
    p.linear(normed, random_matrix(p, kQ, kHidden, random), qkv, -1, false, 0);
    p.linear(normed, random_matrix(p, 2 * kKv, kHidden, random), qkv, -1, false, kQ);
    p.rope({qkv, table, 0, kHeads + kKvHeads, kHeadDim, kHeadDim, false});
    p.kv_write({layer, qkv, kQ, qkv, kQ + kKv});
    p.attention({layer, qkv, 0, heads, kHeads, 0.2f, 0.0f, 0, 0});
    p.linear(heads, random_matrix(p, kHidden, kQ, random), x, -1, true, 0);
    p.rms_norm(x, norm, normed, 1e-5f);
    p.linear(normed, random_matrix(p, 2 * kInner, kHidden, random), gate_up, -1, false, 0);
    p.gated(gate_up, 0, kInner, inner, "silu");
    p.linear(inner, random_matrix(p, kHidden, kInner, random), x, -1, true, 0);
  }
  p.head(x, norm, 1e-5f, embedding, 0.0f, 1.0f, -1);
}

template <class T>
View<T> view(const std::vector<T>& values) {
  return {values.data(), static_cast<int64_t>(values.size()), 1};
}

// Greedy sampling of every row.
struct Sampling {
  explicit Sampling(size_t rows)
      : zeros(rows, 0.0f), ones(rows, 1.0f), no(rows, 0), minus(rows, -1), indptr(rows + 1, 0), seed(rows, 0) {}
  SamplingView fields() const {
    SamplingView s;
    s.temperature = s.min_p = s.presence_penalty = s.frequency_penalty = view(zeros);
    s.top_p = s.repetition_penalty = view(ones);
    s.top_k = view(no);
    s.seed = s.draw_position = view(seed);
    s.forced = s.num_logprobs = s.mask_index = s.fallback_index = view(minus);
    s.prompt_indptr = s.output_indptr = s.bias_indptr = view(indptr);
    return s;
  }
  std::vector<float> zeros, ones;
  std::vector<int32_t> no, minus, indptr;
  std::vector<uint64_t> seed;
};

// Logit hashes of one sequence's positions, `step` of them at a time.
std::vector<uint64_t> hashes(const std::string& isa, int threads, int tokens, int step) {
  Program program(isa, threads, std::max(step, 8), step);  // room for repeated rows
  build(program);
  std::vector<int32_t> table(64);
  for (int i = 0; i < 64; ++i) table[static_cast<size_t>(i)] = 63 - i;
  std::vector<uint64_t> found;
  for (int begin = 0; begin < tokens; begin += step) {
    const int rows = std::min(step, tokens - begin);
    std::vector<int32_t> ids, positions, sequences(static_cast<size_t>(rows), 0), slots, logit_rows;
    for (int t = begin; t < begin + rows; ++t) {
      ids.push_back(t * 7 % kVocabulary);
      positions.push_back(t);
      slots.push_back(table[static_cast<size_t>(t / kBlock)] * kBlock + t % kBlock);
      logit_rows.push_back(t - begin);
    }
    const Sampling sampling(static_cast<size_t>(rows));
    BatchView batch{view(ids), view(positions),  view(sequences),   view(slots), {table.data(), 1, 64},
                    {},        view(logit_rows), sampling.fields(), true};
    const StepOutput output = program.run(batch);
    found.insert(found.end(), output.hashes.begin(), output.hashes.end());
  }
  return found;
}

}  // namespace

int main() {
  const std::string isa = supported_isas().back();
  constexpr int kTokens = 700;
  const std::vector<uint64_t> expected = hashes(isa, 1, kTokens, 30);
  for (const int threads : {1, 2, 3, 4}) {
    for (const int step : {1, 2, 25, 97, 300, 700}) {
      for (int repeat = 0; repeat < (step < 25 ? 1 : 3); ++repeat) {  // small ones take long
        check(hashes(isa, threads, kTokens, step) == expected,
              std::to_string(threads) + " threads, steps of " + std::to_string(step) + ": other logits");
      }
    }
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
