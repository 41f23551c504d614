#include "reference_attention.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace legato {
namespace {

double from_half(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const double sign = h & 0x8000 ? -1.0 : 1.0;
  if (exponent == 31) return mantissa ? std::nan("") : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
}

double element(KvType type, const uint8_t* data, int64_t index) {
  if (type == KvType::F32) {
    float x;
    std::memcpy(&x, data + index * 4, 4);
    return x;
  }
  uint16_t bits;
  std::memcpy(&bits, data + index * 2, 2);
  if (type == KvType::F16) return from_half(bits);
  const uint32_t wide = (uint32_t)bits << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return x;
}

// Element (position, dimension) of a KV head's part of a block of K or V.
double kv_element(const KvLayer& kv, bool is_key, const uint8_t* data, int64_t position, int64_t d) {
  const int64_t padded = (kv.head_dim + 15) / 16 * 16;
  const int64_t at = is_key ? (d / 2 * kBlock + position) * 2 + d % 2 : (position / 2 * padded + d) * 2 + position % 2;
  if (kv.type == KvType::BF16) return element(kv.type, data, at);
  if (kv.type != KvType::I8) return element(kv.type, data, is_key ? d * kBlock + position : position * kv.head_dim + d);
  return (int8_t)data[at] * element(KvType::F32, data + padded * kBlock, position);
}

struct Score {
  double value, error;
};

void one_head(const AttentionArgs& a, int row, int head, double* result, double* bound) {
  const KvLayer& kv = a.kv;
  const int64_t dim = kv.head_dim, kv_head = head / (a.heads / kv.kv_heads);
  const int position = a.positions[row], first = a.window > 0 && position >= a.window ? position - a.window + 1 : 0;
  const int32_t* table = a.block_tables + a.sequences[row] * a.table_stride;
  const float* q = a.q + row * a.q_stride + head * dim;
  constexpr double eps = 0x1p-24;
  double largest = 0;
  for (int64_t d = 0; d < dim; ++d) largest = std::fmax(largest, std::fabs(q[d]));
  // Of 16-bit queries and weights: half a unit each.
  const double rounding = kv.type == KvType::I8 ? 0.5001 / 32767 : 0;
  const double narrow = kv.type == KvType::BF16 ? 0x1.02p-9 : 0;  // of queries and weights rounded to bf16, relative
  const double coarse = kv.type == KvType::BF16 ? 9e-5 : 0;       // of the exponential that is rounded
  std::vector<Score> scores;
  double greatest = -INFINITY, error = 0;
  for (int p = first; p <= position; ++p) {
    const uint8_t* block = kv.k + kv.at(table[p / kBlock], kv_head);
    Score s{0, 0};
    double squares = 0, sizes = 0, products = 0;
    for (int64_t d = 0; d < dim; ++d) {
      const double key = kv_element(kv, true, block, p % kBlock, d), product = q[d] * key * a.scale;
      sizes += std::fabs(key);
      s.value += product;
      squares += product * product;
      products += std::fabs(product);
    }
    // A chain of dim roundings, each at most eps of a partial sum that grows like a random walk, added like one.
    s.error = 4 * eps * std::sqrt((double)dim * squares) + rounding * largest * sizes * a.scale + narrow * products;
    if (a.softcap > 0) {
      s.value = a.softcap * std::tanh(s.value / a.softcap);
      s.error += 32 * eps * std::fabs(s.value);
    }
    s.error += 8 * eps * std::fabs(s.value);
    greatest = std::fmax(greatest, s.value);
    error = std::fmax(error, s.error);
    scores.push_back(s);
  }
  double total = 0;
  std::vector<double> sums((size_t)dim), sizes((size_t)dim), largest_of_tile((size_t)(position / 128 + 1));
  for (int p = first; p <= position; ++p) {
    const double weight = std::exp(scores[(size_t)(p - first)].value - greatest);
    const uint8_t* block = kv.v + kv.at(table[p / kBlock], kv_head);
    total += weight;
    if (kv.type == KvType::I8) {  // a tile's unit follows from its largest weight times scale
      const int64_t scales = (dim + 15) / 16 * 16 * kBlock;
      double& most = largest_of_tile[(size_t)(p / 128)];
      most = std::fmax(most, weight * element(KvType::F32, block + scales, p % kBlock));
    }
    for (int64_t d = 0; d < dim; ++d) {
      const double v = weight * kv_element(kv, false, block, p % kBlock, d);
      sums[(size_t)d] += v;
      sizes[(size_t)d] += std::fabs(v);
    }
  }
  // A weight's relative error: that of its exponent, the exponential's, and the roundings of the two sums. The
  // maximum's error is in every weight and so in none.
  const double relative = error + 2 * (narrow + coarse) + eps * (24 + 2 * std::sqrt((double)scores.size()));
  double units = 0;  // each of a tile's 128 weights may be off by half a unit, of values up to 127
  for (const double most : largest_of_tile) units += most * rounding * 127 * 128;
  for (int64_t d = 0; d < dim; ++d) {
    result[d] = sums[(size_t)d] / total;
    bound[d] = (relative * sizes[(size_t)d] + units) / total + 1e-37;
  }
}

}  // namespace

void reference_attention(const AttentionArgs& a, double* result, double* bound) {
  for (int64_t row = 0; row < a.rows; ++row) {
    for (int64_t head = 0; head < a.heads; ++head) {
      const int64_t at = (row * a.heads + head) * a.kv.head_dim;
      one_head(a, (int)row, (int)head, result + at, bound + at);
    }
  }
}

}  // namespace legato
