// Sampling as its definition says, by sorting the vocabulary, in double precision: what tests compare with.
#pragma once
#include <vector>

#include "../include/kernels.h"

namespace legato {

// The logits after mask, bias and penalties, computed in floats as the operator's definition says.
std::vector<float> reference_adjusted(const float* logits, int64_t vocab, const SampleRow& row);

// The probability of each token; all zero if no token may be taken.
std::vector<double> reference_probabilities(const float* logits, int64_t vocab, const SampleRow& row);

// The token ids in order: likeliest first, the lower id among equals.
std::vector<int32_t> reference_order(const float* values, int64_t vocab);

struct Philox {
  uint32_t word[4];
};
Philox reference_philox(Philox counter, uint32_t key0, uint32_t key1);  // Philox4x32-10

}  // namespace legato
