#include "reference_matmul.h"

#include <cmath>
#include <cstring>

namespace legato::reference {
namespace {

float half_at(const uint8_t* p) {
  const int bits = p[0] | p[1] << 8, exponent = bits >> 10 & 31, mantissa = bits & 1023;
  float magnitude;
  if (exponent == 31) {
    magnitude = mantissa ? NAN : INFINITY;
  } else if (exponent == 0) {
    magnitude = std::ldexp((float)mantissa, -24);
  } else {
    magnitude = std::ldexp((float)(1024 + mantissa), exponent - 25);
  }
  return bits & 0x8000 ? -magnitude : magnitude;
}

float word_at(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

uint32_t bits_of(const uint8_t* p) {
  uint32_t bits;
  std::memcpy(&bits, p, 4);
  return bits;
}

class Reader {
 public:
  explicit Reader(int64_t columns) { row_.product.resize((size_t)columns), row_.offset.resize((size_t)columns); }
  void put(int64_t k, float product, float offset = 0.0f) {
    row_.product[(size_t)k] = product;
    row_.offset[(size_t)k] = offset;
  }
  WeightRow take() { return std::move(row_); }

 private:
  WeightRow row_;
};

// A block of 32 at k0. bits: 4 or 5 per weight; with_minimum: the _1 formats, else weights are centred.
void read_small_block(const uint8_t* block, int bits, bool with_minimum, int64_t k0, Reader& out) {
  const float d = half_at(block), m = with_minimum ? half_at(block + 2) : 0.0f;
  const uint8_t* high = block + (with_minimum ? 4 : 2);
  const uint8_t* nibbles = high + (bits == 5 ? 4 : 0);
  for (int j = 0; j < 32; ++j) {
    int q = nibbles[j % 16] >> (j / 16 * 4) & 15;
    if (bits == 5) q += 16 * (int)(bits_of(high) >> j & 1);
    if (!with_minimum) q -= 1 << (bits - 1);
    out.put(k0 + j, (float)q * d, m);
  }
}

void read_q8_0(const uint8_t* block, int64_t k0, Reader& out) {
  for (int j = 0; j < 32; ++j) out.put(k0 + j, (float)(int8_t)block[2 + j] * half_at(block));
}

// Scale and minimum j of the twelve bytes in a Q4_K or Q5_K super-block.
void read_six_bits(const uint8_t* p, int j, int* scale, int* minimum) {
  *scale = j < 4 ? p[j] % 64 : p[j + 4] % 16 + p[j - 4] / 64 * 16;
  *minimum = j < 4 ? p[j + 4] % 64 : p[j + 4] / 16 + p[j] / 64 * 16;
}

void read_q45_k(const uint8_t* block, int bits, int64_t k0, Reader& out) {
  const float d = half_at(block), dmin = half_at(block + 2);
  const uint8_t* fifth = block + 16;
  const uint8_t* nibbles = block + (bits == 5 ? 48 : 16);
  for (int j = 0; j < 256; ++j) {
    const int sub = j / 32;
    int scale, minimum;
    read_six_bits(block + 4, sub, &scale, &minimum);
    int q = nibbles[sub / 2 * 32 + j % 32] >> (sub % 2 * 4) & 15;
    if (bits == 5) q += 16 * (fifth[j % 32] >> sub & 1);
    out.put(k0 + j, d * (float)scale * (float)q, -(dmin * (float)minimum));
  }
}

void read_q6_k(const uint8_t* block, int64_t k0, Reader& out) {
  const float d = half_at(block + 208);
  for (int j = 0; j < 256; ++j) {
    const int half = j / 128, quarter = j % 128 / 32, l = j % 32;
    const int low = block[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
    const int high = block[128 + half * 32 + l] >> (quarter * 2) & 3;
    out.put(k0 + j, d * (float)(int8_t)block[192 + j / 16] * (float)(low + 16 * high - 32));
  }
}

}  // namespace

WeightRow read_row(Format format, const uint8_t* source, int64_t columns) {
  Reader out(columns);
  for (int64_t k = 0; k < columns; ++k) {
    if (format == Format::F32) out.put(k, word_at(bits_of(source + 4 * k)));
    if (format == Format::F16) out.put(k, half_at(source + 2 * k));
    if (format == Format::BF16) out.put(k, word_at((uint32_t)(source[2 * k] | source[2 * k + 1] << 8) << 16));
  }
  for (int64_t k = 0; k < columns; k += 32) {
    if (format == Format::Q8_0) read_q8_0(source + k / 32 * 34, k, out);
    if (format == Format::Q4_0) read_small_block(source + k / 32 * 18, 4, false, k, out);
    if (format == Format::Q4_1) read_small_block(source + k / 32 * 20, 4, true, k, out);
    if (format == Format::Q5_0) read_small_block(source + k / 32 * 22, 5, false, k, out);
    if (format == Format::Q5_1) read_small_block(source + k / 32 * 24, 5, true, k, out);
  }
  for (int64_t k = 0; k < columns; k += 256) {
    if (format == Format::Q4_K) read_q45_k(source + k / 256 * 144, 4, k, out);
    if (format == Format::Q5_K) read_q45_k(source + k / 256 * 176, 5, k, out);
    if (format == Format::Q6_K) read_q6_k(source + k / 256 * 210, k, out);
  }
  return out.take();
}

std::vector<double> seen_row(RowForm form, const float* x, int64_t columns) {
  std::vector<double> seen(x, x + columns);
  if (form == RowForm::BF16) {
    for (double& value : seen) {
      if (value == 0 || !std::isfinite(value)) continue;
      const double unit = std::ldexp(1.0, std::ilogb(value) - 7);  // eight significant bits
      value = std::nearbyint(value / unit) * unit;
    }
  }
  for (int64_t k = 0; form == RowForm::Q8 && k < columns; k += 32) {
    float largest = 0;
    for (int j = 0; j < 32; ++j) largest = std::fmax(largest, std::fabs(x[k + j]));
    const bool zero = largest <= 0x1p-100f;
    const float scale = zero ? 0 : largest / 127, inverse = zero ? 0 : 127 / largest;
    for (int j = 0; j < 32; ++j) seen[(size_t)(k + j)] = (double)scale * std::nearbyintf(x[k + j] * inverse);
  }
  return seen;
}

Dot dot(const WeightRow& row, const std::vector<double>& x) {
  Dot sum{0, 0};
  for (size_t k = 0; k < x.size(); ++k) {
    const double product = (double)row.product[k], offset = (double)row.offset[k];
    sum.value += (product + offset) * x[k];
    sum.magnitude += (std::fabs(product) + std::fabs(offset)) * std::fabs(x[k]);
  }
  return sum;
}

}  // namespace legato::reference
