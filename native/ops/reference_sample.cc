#include "reference_sample.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

namespace legato {

std::vector<float> reference_adjusted(const float* logits, int64_t vocab, const SampleRow& row) {
  std::vector<float> x(logits, logits + vocab);
  for (int64_t i = 0; i < vocab && row.mask; ++i) {
    if (!(row.mask[i / 32] >> i % 32 & 1)) x[(size_t)i] = -INFINITY;
  }
  for (int i = 0; i < row.bias_count; ++i) x[(size_t)row.bias_ids[i]] += row.bias_values[i];
  std::set<int32_t> seen(row.prompt_ids, row.prompt_ids + row.prompt_count);
  std::map<int32_t, int> counts;
  for (int i = 0; i < row.output_count; ++i) {
    seen.insert(row.output_ids[i]);
    ++counts[row.output_ids[i]];
  }
  for (int32_t id : seen) {
    float& value = x[(size_t)id];
    value = value > 0 ? value / row.repetition_penalty : value * row.repetition_penalty;
  }
  for (const auto& [id, count] : counts) x[(size_t)id] -= row.frequency_penalty * (float)count;
  for (const auto& [id, count] : counts) x[(size_t)id] -= row.presence_penalty;
  return x;
}

std::vector<int32_t> reference_order(const float* values, int64_t vocab) {
  std::vector<int32_t> order((size_t)vocab);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  return order;
}

// Once without a mask; what falls on tokens that the mask lacks is shared out again under the fallback.
static std::vector<double> soft_probabilities(const float* logits, int64_t vocab, SampleRow row) {
  const uint32_t* mask = row.mask;
  row.mask = nullptr;
  std::vector<double> p = reference_probabilities(logits, vocab, row);
  row.mask = row.fallback;
  row.fallback = nullptr;
  const std::vector<double> again = reference_probabilities(logits, vocab, row);
  double refused = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    if (mask[i / 32] >> i % 32 & 1) continue;
    refused += p[(size_t)i];
    p[(size_t)i] = 0;
  }
  for (int64_t i = 0; i < vocab; ++i) p[(size_t)i] += refused * again[(size_t)i];
  return p;
}

std::vector<double> reference_probabilities(const float* logits, int64_t vocab, const SampleRow& row) {
  if (row.mask && row.fallback) return soft_probabilities(logits, vocab, row);
  const std::vector<float> x = reference_adjusted(logits, vocab, row);
  std::vector<double> p((size_t)vocab, 0.0);
  const std::vector<int32_t> order = reference_order(x.data(), vocab);
  const double top = x[(size_t)order[0]];
  if (!(top > -INFINITY)) return p;
  if (row.temperature < 1e-5f) {
    p[(size_t)order[0]] = 1;
    return p;
  }
  std::vector<double> weights;  // in order
  for (int32_t id : order) {
    const double weight = std::exp((x[(size_t)id] - top) / row.temperature);
    if (weight < row.min_p || !(x[(size_t)id] > -INFINITY)) break;
    if (row.top_k > 0 && weights.size() == (size_t)row.top_k) break;
    weights.push_back(weight);
  }
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double mass = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (row.top_p < 1 && i > 0 && mass >= (double)row.top_p * total) {
      weights.resize(i);
      break;
    }
    mass += weights[i];
  }
  const double kept = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (size_t i = 0; i < weights.size(); ++i) p[(size_t)order[i]] = weights[i] / kept;
  return p;
}

Philox reference_philox(Philox c, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = 0xd2511f53ull * c.word[0], b = 0xcd9e8d57ull * c.word[2];
    c = {{(uint32_t)(b >> 32) ^ c.word[1] ^ key0, (uint32_t)b, (uint32_t)(a >> 32) ^ c.word[3] ^ key1, (uint32_t)a}};
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
  return c;
}

}  // namespace legato
