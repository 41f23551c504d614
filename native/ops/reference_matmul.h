// Matrix products as the formats' definitions say, in plain loops over the checkpoint's own bytes: what tests compare
// the packed kernels with.
#pragma once
#include <cstdint>
#include <vector>

#include "../include/kernels.h"

namespace legato::reference {

// One row of weights: weight k is product[k] + offset[k]; offset is zero in formats without a minimum.
struct WeightRow {
  std::vector<float> product, offset;
  float value(int64_t k) const { return product[(size_t)k] + offset[(size_t)k]; }
};
WeightRow read_row(Format, const uint8_t* source, int64_t columns);

// The row as a product with weights in `format` sees it: rounded to 8 bits per group of 32, to bf16, or as it is.
std::vector<double> seen_row(RowForm, const float* x, int64_t columns);

// sum over k of weight * x, and the sum of magnitudes that bounds the rounding errors.
struct Dot {
  double value, magnitude;
};
Dot dot(const WeightRow&, const std::vector<double>& x);

}  // namespace legato::reference
