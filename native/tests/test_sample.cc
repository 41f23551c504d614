// Sampling: the distribution of many counted draws against the exact one, log-probabilities against double precision,
// the random numbers against Random123's vectors, and the same answer on every instruction set.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../ops/reference_sample.h"
#include "expect.h"

using namespace legato;

namespace {

std::vector<const Kernels*> tables() {
  std::vector<const Kernels*> found;
  for (const char* isa : {"scalar", "avx2", "avx512", "avx512_vnni", "avx512_bf16"}) {
    if (const Kernels* table = kernels(isa)) found.push_back(table);
  }
  return found;
}

const SampleRow kPlain{1, 1,       0, 1,       0, 0,       0,       -1, -1,      0,
                       0, nullptr, 0, nullptr, 0, nullptr, nullptr, 0,  nullptr, nullptr};

struct Answer {
  SampleResult result{};
  std::vector<int32_t> ids;
  std::vector<float> logprobs;

  bool operator==(const Answer& o) const {
    return result.token == o.result.token && result.rank == o.result.rank && ids == o.ids &&
           std::memcmp(&result.logprob, &o.result.logprob, 4) == 0 &&
           (logprobs.empty() || std::memcmp(logprobs.data(), o.logprobs.data(), logprobs.size() * 4) == 0);
  }
};

Answer sample(const Kernels& table, const std::vector<float>& logits, const SampleRow& row, int fill = 0xff) {
  static std::vector<char> memory;
  memory.resize(table.sample_scratch((int64_t)logits.size()) + 64);
  if (fill >= 0) std::fill(memory.begin(), memory.end(), (char)fill);
  Answer a;
  a.ids.resize((size_t)std::max(row.num_logprobs, 0));
  a.logprobs.resize(a.ids.size());
  a.result.top_ids = a.ids.empty() ? nullptr : a.ids.data();
  a.result.top_logprobs = a.ids.empty() ? nullptr : a.logprobs.data();
  table.sample(logits.data(), (int64_t)logits.size(), row, a.result,
               memory.data() + (64 - (uintptr_t)memory.data() % 64) % 64);
  return a;
}

std::vector<float> random_logits(size_t vocab, float spread, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> x(vocab);
  for (float& value : x) value = normal(random);
  return x;
}

void philox_is_random123() {
  const auto is = [](Philox got, Philox wanted) { return std::memcmp(&got, &wanted, sizeof got) == 0; };
  expect(is(reference_philox({{0, 0, 0, 0}}, 0, 0), {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}), "kat 0");
  expect(is(reference_philox({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u), {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}),
         "kat 1");
  expect(is(reference_philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
            {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}),
         "kat 2");
  // Equal logits: the token is the draw itself, scaled.
  const std::vector<float> flat(1 << 16, 2.5f);
  std::mt19937_64 random(3);
  for (const Kernels* table : tables()) {
    for (int i = 0; i < 20; ++i) {
      SampleRow row = kPlain;
      row.seed = i == 0 ? 0 : random();
      row.draw_position = i == 0 ? 0 : random() >> (i % 2 ? 0 : 40);
      const Philox p = reference_philox({{(uint32_t)row.draw_position, (uint32_t)(row.draw_position >> 32), 0, 0}},
                                        (uint32_t)row.seed, (uint32_t)(row.seed >> 32));
      expect(sample(*table, flat, row).result.token == (int32_t)(p.word[1] >> 16), "draw is Philox's");
    }
  }
}

// Draws with many seeds and positions; pooled chi-square, six standard deviations allowed.
void distribution(const std::string& name, const std::vector<float>& logits, SampleRow row) {
  const std::vector<double> wanted = reference_probabilities(logits.data(), (int64_t)logits.size(), row);
  const Kernels& table = *tables().back();
  const int draws = 20000;
  std::vector<int> seen(logits.size());
  for (int i = 0; i < draws; ++i) {
    row.seed = (uint64_t)(i / 100) * 7919;
    row.draw_position = (uint64_t)(i % 100);
    const int32_t token = sample(table, logits, row, -1).result.token;
    if (token < 0) return expect(false, name + ": no token");
    ++seen[(size_t)token];
  }
  double chi = 0, rest = 0;
  int cells = 0, rest_seen = 0;
  for (size_t t = 0; t < logits.size(); ++t) {
    if (wanted[t] == 0) {
      expect(seen[t] == 0, name + ": a token that is filtered out");
    } else if (wanted[t] * draws < 8) {
      rest += wanted[t] * draws;
      rest_seen += seen[t];
    } else {
      chi += (seen[t] - wanted[t] * draws) * (seen[t] - wanted[t] * draws) / (wanted[t] * draws);
      ++cells;
    }
  }
  if (rest > 8) {
    chi += (rest_seen - rest) * (rest_seen - rest) / rest;
    ++cells;
  }
  expect(chi < cells + 6 * std::sqrt(2.0 * cells) + 6,
         name + ": chi-square " + std::to_string(chi) + " of " + std::to_string(cells) + " cells");
}

void distributions() {
  struct Setting {
    float temperature, top_p, min_p;
    int top_k;
  };
  const Setting settings[] = {{1, 1, 0, 0},        {0.7f, 1, 0, 0},    {1.5f, 0.9f, 0, 0},    {1, 0.5f, 0, 0},
                              {1, 1, 0.1f, 0},     {1, 1, 0, 5},       {0.8f, 0.8f, 0, 20},   {1, 0.95f, 0.02f, 40},
                              {2, 0.99f, 0, 0},    {1, 0.3f, 0.2f, 3}, {1, 0.0001f, 0, 0},    {1, 1, 1, 0},
                              {1, 0.9f, 0.05f, 0}, {1, 1, 0, 1},       {1.3f, 1, 0.01f, 500}, {1, 0.97f, 0, 1000000}};
  for (size_t vocab : {1u, 7u, 40u, 3001u}) {
    const std::vector<float> logits = random_logits(vocab, 2, (unsigned)vocab);
    for (const Setting& s : settings) {
      SampleRow row = kPlain;
      row.temperature = s.temperature;
      row.top_p = s.top_p;
      row.min_p = s.min_p;
      row.top_k = s.top_k;
      distribution(std::to_string(vocab) + " tokens, T " + std::to_string(s.temperature) + " p " +
                       std::to_string(s.top_p) + " min " + std::to_string(s.min_p) + " k " + std::to_string(s.top_k),
                   logits, row);
    }
  }
}

void adjustments() {
  const size_t vocab = 203;
  const std::vector<float> logits = random_logits(vocab, 2, 5);
  const std::vector<int32_t> prompt{3, 3, 9, 150, 202}, output{9, 17, 17, 17, 40}, biased{5, 17, 202};
  const std::vector<float> bias{1.5f, -INFINITY, 4};
  std::vector<uint32_t> mask((vocab + 31) / 32, 0x7bdef7bdu);
  for (int use = 0; use < 16; ++use) {
    SampleRow row = kPlain;
    if (use & 1) row.mask = mask.data();
    if (use & 2) {
      row.bias_ids = biased.data();
      row.bias_values = bias.data();
      row.bias_count = (int32_t)biased.size();
    }
    if (use & 4) {
      row.repetition_penalty = 1.4f;
      row.prompt_ids = prompt.data();
      row.prompt_count = (int32_t)prompt.size();
    }
    if (use & 8) {
      row.presence_penalty = 0.5f;
      row.frequency_penalty = 0.3f;
    }
    if (use & 12) {
      row.output_ids = output.data();
      row.output_count = (int32_t)output.size();
    }
    distribution("adjusted " + std::to_string(use), logits, row);
    row.top_k = 9;
    row.top_p = 0.9f;
    distribution("adjusted, filtered " + std::to_string(use), logits, row);
    row.temperature = 0;
    const std::vector<float> x = reference_adjusted(logits.data(), (int64_t)vocab, row);
    for (const Kernels* table : tables()) {
      expect(sample(*table, logits, row).result.token == reference_order(x.data(), (int64_t)vocab)[0], "greedy");
    }
  }
}

// Some tokens of a vocabulary, the same for the same seed.
std::vector<uint32_t> random_mask(size_t vocab, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> mask((vocab + 31) / 32);
  for (uint32_t& word : mask) word = (uint32_t)random();
  return mask;
}

bool allows(const std::vector<uint32_t>& mask, int32_t token) { return mask[(size_t)token / 32] >> token % 32 & 1; }

// A soft mask: the row's token without a mask where that is allowed, else one of the fallback's.
void soft_masks() {
  const size_t vocab = 203;
  const std::vector<float> logits = random_logits(vocab, 2, 6);
  const std::vector<uint32_t> mask = random_mask(vocab, 7), other = random_mask(vocab, 8), none(mask.size(), 0);
  const std::vector<int32_t> output{9, 17, 17}, biased{(int32_t)reference_order(logits.data(), vocab)[0]};
  const std::vector<float> bias{-INFINITY};
  for (int use = 0; use < 8; ++use) {
    SampleRow row = kPlain;
    row.mask = mask.data();
    row.fallback = use & 1 ? other.data() : mask.data();
    if (use & 2) {
      row.top_k = 12;
      row.top_p = 0.9f;
    }
    if (use & 4) {
      row.output_ids = output.data();
      row.output_count = (int32_t)output.size();
      row.presence_penalty = 0.7f;
      row.bias_ids = biased.data();
      row.bias_values = bias.data();
      row.bias_count = 1;
    }
    distribution("soft " + std::to_string(use), logits, row);
    int kept = 0, redrawn = 0;
    for (const Kernels* table : tables()) {
      for (row.draw_position = 0; row.draw_position < 60; ++row.draw_position) {
        for (float temperature : {0.0f, 1.0f}) {
          row.temperature = temperature;
          SampleRow free = row, hard = row, hopeless = row;
          free.mask = free.fallback = hard.fallback = nullptr;
          hard.mask = row.fallback;
          hopeless.fallback = none.data();
          const int32_t wanted = sample(*table, logits, free).result.token;
          const int32_t token = sample(*table, logits, row).result.token;
          if (allows(mask, wanted)) {
            expect(token == wanted, "soft: the token without a mask");
            ++kept;
            continue;
          }
          expect(use & 1 ? allows(other, token) : allows(mask, token), "soft: a token of the fallback");
          expect(temperature > 0 || token == sample(*table, logits, hard).result.token, "soft: greedy");
          expect(sample(*table, logits, hopeless).result.token == -1, "soft: no token left");
          ++redrawn;
        }
      }
    }
    expect(kept > 0 && redrawn > 0, "soft: both happen");
  }
}

// Equal logits, nothing allowed at first: the token is the second draw itself, scaled.
void second_draw_is_philox() {
  const std::vector<float> flat(1 << 16, 2.5f);
  const std::vector<uint32_t> none(flat.size() / 32, 0), all(flat.size() / 32, ~0u);
  for (const Kernels* table : tables()) {
    for (uint64_t i = 0; i < 20; ++i) {
      SampleRow row = kPlain;
      row.mask = none.data();
      row.fallback = all.data();
      row.seed = i * 0x123456789abcull;
      row.draw_position = i << 30;
      const Philox p = reference_philox({{(uint32_t)row.draw_position, (uint32_t)(row.draw_position >> 32), 1, 0}},
                                        (uint32_t)row.seed, (uint32_t)(row.seed >> 32));
      expect(sample(*table, flat, row).result.token == (int32_t)(p.word[1] >> 16), "second draw is Philox's");
    }
  }
}

void logprobs() {
  for (size_t vocab : {1u, 16u, 333u, 49152u}) {
    std::vector<float> logits = random_logits(vocab, 3, 11);
    for (size_t i = 5; i < vocab; i += 7) logits[i] = std::round(logits[i]);  // ties
    double total = 0, top = *std::max_element(logits.begin(), logits.end());
    for (float x : logits) total += std::exp(x - top);
    const auto exact = [&](int32_t id) { return logits[(size_t)id] - top - std::log(total); };
    const std::vector<int32_t> order = reference_order(logits.data(), (int64_t)vocab);
    for (int count : {0, 1, 5, 20, 400}) {
      for (int32_t forced : {-1, 0, (int32_t)vocab / 2}) {
        SampleRow row = kPlain;
        row.num_logprobs = count;
        row.forced = forced;
        row.temperature = 0.8f;
        row.top_k = 30;
        const Answer a = sample(*tables().back(), logits, row);
        const int32_t token = a.result.token;
        expect(token >= 0 && (forced < 0 || token == forced), "forced token");
        expect(std::fabs(a.result.logprob - exact(token)) < 2e-6 * (2 + std::fabs(exact(token))), "logprob");
        int rank = 1;
        for (float x : logits) rank += x > logits[(size_t)token];
        expect(a.result.rank == rank, "rank");
        for (size_t i = 0; i < (size_t)count; ++i) {
          if (i < vocab) {
            expect(a.ids[i] == order[i], "top ids");
            expect(std::fabs(a.logprobs[i] - exact(order[i])) < 2e-6 * (2 + std::fabs(exact(order[i]))), "top logprob");
          } else {
            expect(a.ids[i] == -1 && std::isnan(a.logprobs[i]), "beyond the vocabulary");
          }
        }
      }
    }
  }
}

void broken_rows() {
  for (const Kernels* table : tables()) {
    for (size_t vocab : {5u, 64u, 1000u}) {
      for (float poison : {NAN, INFINITY}) {
        for (size_t at : {size_t{0}, vocab / 2, vocab - 1}) {
          std::vector<float> logits = random_logits(vocab, 1, 1);
          logits[at] = poison;
          for (float temperature : {0.0f, 1.0f}) {
            SampleRow row = kPlain;
            row.temperature = temperature;
            row.num_logprobs = 3;
            const Answer a = sample(*table, logits, row);
            expect(a.result.token == -1 && a.ids[0] == -1 && std::isnan(a.result.logprob), "NaN or inf gives -1");
          }
        }
      }
      const std::vector<float> nothing(vocab, -INFINITY), logits = random_logits(vocab, 1, 1);
      expect(sample(*table, nothing, kPlain).result.token == -1, "all -inf gives -1");
      SampleRow row = kPlain;
      const std::vector<uint32_t> none(vocab / 32 + 1, 0);
      row.mask = none.data();
      expect(sample(*table, logits, row).result.token == -1, "all masked gives -1");
      std::vector<float> one = nothing;
      one[vocab - 1] = -3;
      for (int top_k : {0, 1, 3}) {
        row = kPlain;
        row.top_k = top_k;
        row.top_p = top_k == 3 ? 0.5f : 1.0f;
        expect(sample(*table, one, row).result.token == (int32_t)vocab - 1, "the only token left");
      }
    }
  }
}

// Every instruction set and any content of the scratch memory: the same token and the same bits.
void same_everywhere() {
  std::mt19937 random(17);
  const auto between = [&](float low, float high) { return std::uniform_real_distribution<float>(low, high)(random); };
  for (int i = 0; i < 150; ++i) {
    const size_t vocab = i % 3 ? 1 + random() % 5000 : 49152;
    std::vector<float> logits = random_logits(vocab, between(0.1f, 5), (unsigned)i);
    SampleRow row = kPlain;
    row.temperature = i % 7 ? between(0.2f, 2) : 0;
    row.top_p = i % 2 ? between(0.1f, 1) : 1;
    row.min_p = i % 5 ? 0 : between(0, 0.2f);
    row.top_k = i % 4 ? 0 : 1 + (int)(random() % 100);
    row.num_logprobs = i % 3 ? (int)(random() % 10) : -1;
    row.seed = random();
    const std::vector<int32_t> output{0, (int32_t)vocab - 1};
    if (i % 6 == 0) {
      row.output_ids = output.data();
      row.output_count = 2;
      row.repetition_penalty = 1.2f;
      row.frequency_penalty = 0.1f;
    }
    const std::vector<uint32_t> mask = random_mask(vocab, (unsigned)i), all(mask.size(), ~0u);
    if (i % 4 == 1) {
      row.mask = mask.data();
      row.fallback = all.data();
    }
    const Answer first = sample(*tables()[0], logits, row);
    expect(first.result.token >= 0, "a token");
    for (const Kernels* table : tables()) {
      expect(sample(*table, logits, row) == first, std::string("bits on ") + table->isa);
      expect(sample(*table, logits, row, 0) == first, std::string("scratch on ") + table->isa);
      const uint64_t hash = table->hash_row(logits.data(), (int64_t)vocab);
      expect(hash == tables()[0]->hash_row(logits.data(), (int64_t)vocab), "hash");
      if (vocab > 1) {
        std::vector<float> other = logits;
        std::swap(other[random() % vocab], other[random() % vocab]);
        const bool equal = std::memcmp(other.data(), logits.data(), vocab * 4) == 0;
        expect((table->hash_row(other.data(), (int64_t)vocab) == hash) == equal, "hash sees the order");
      }
    }
  }
}

}  // namespace

int main() {
  philox_is_random123();
  distributions();
  adjustments();
  soft_masks();
  second_draw_is_philox();
  logprobs();
  broken_rows();
  same_everywhere();
  if (failures == 0) std::printf("ok\n");
  return failures != 0;
}
