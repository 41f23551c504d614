// Norm, rotation, activations and cache writes on every instruction set of this machine: against the double-precision
// reference within a bound that counts roundings, and the same bits on all of them. Lengths around multiples of 16;
// guards around the outputs stay as they were.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../cpu/dispatch.h"
#include "../include/kernels.h"
#include "../ops/reference_elementwise.h"

using namespace legato;

namespace {

constexpr double kUnit = 6e-8;  // half a unit in the last place of a float, relative
constexpr float kGuard = 12345.0f;
constexpr int64_t kLengths[] = {1, 2, 15, 16, 17, 31, 33, 64, 100, 576, 1536};
int failures = 0;

void check(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

std::vector<float> random_row(int64_t n, double spread, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0, spread);
  std::vector<float> row(static_cast<size_t>(n));
  for (float& x : row) x = static_cast<float>(normal(random));
  return row;
}

// A row with one guard float behind it.
std::vector<float> guarded(std::vector<float> row) {
  row.push_back(kGuard);
  return row;
}

// Each value within relative * |expected| + absolute, the guard intact.
void compare(const std::string& what, const std::vector<float>& actual, const std::vector<double>& expected,
             double relative, double absolute) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::fabs(actual[i] - expected[i]);
    if (!(error <= relative * std::fabs(expected[i]) + absolute)) {
      check(false, what + " [" + std::to_string(i) + "] is " + std::to_string(actual[i]) + ", not " +
                       std::to_string(expected[i]));
      return;
    }
  }
  check(actual.back() == kGuard, what + " writes behind its end");
}

// The results of all instruction sets, in the order of computation, as bits.
using Bits = std::vector<float>;
void keep(Bits& bits, const std::vector<float>& values) { bits.insert(bits.end(), values.begin(), values.end()); }

void test_norm(const Kernels& k, Bits& bits) {
  for (const int64_t n : kLengths) {
    const auto x = random_row(n, 3, 1), weight = random_row(n, 1, 2);
    auto out = guarded(x);
    k.rms_norm(x.data(), weight.data(), out.data(), n, 1e-5f);
    // n squares in at most n / 16 + 5 sums, halved by the root; root, division and two products
    const double relative = kUnit * (static_cast<double>(n) / 32 + 10);
    compare(std::string(k.isa) + " rms_norm " + std::to_string(n), out,
            reference::rms_norm(x.data(), weight.data(), n, 1e-5f), relative, 0);
    auto in_place = guarded(x);
    k.rms_norm(in_place.data(), weight.data(), in_place.data(), n, 1e-5f);
    check(in_place == out, "rms_norm in place differs");
    keep(bits, out);
  }
}

void test_rope(const Kernels& k, Bits& bits) {
  for (const int64_t dim : {2, 6, 16, 30, 32, 64, 80, 128, 256}) {
    const auto x = random_row(dim, 2, 3);
    std::vector<float> cos, sin;
    for (const float angle : random_row(dim / 2, 100, 4)) {
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
    for (const bool interleaved : {false, true}) {
      auto out = guarded(x);
      k.rope(out.data(), cos.data(), sin.data(), static_cast<int32_t>(dim), interleaved);
      compare(std::string(k.isa) + " rope " + std::to_string(dim), out,
              reference::rope(x.data(), cos.data(), sin.data(), dim, interleaved), 0, 2 * kUnit * 20);
      keep(bits, out);
    }
  }
}

void test_gated(const Kernels& k, Bits& bits) {
  for (const int64_t n : kLengths) {
    for (int activation = 0; activation < 3; ++activation) {
      auto gate = random_row(n, 4, 5);
      gate[0] = 100;  // saturated on either side
      gate[static_cast<size_t>(n / 2)] = -100;
      const auto up = random_row(n, 2, 6);
      auto out = guarded(up);
      k.gated(gate.data(), up.data(), out.data(), n, activation);
      // exp and tanh are good to 3e-7 relative, erf to 1.5e-7 absolute (times |gate * up| / 2)
      compare(std::string(k.isa) + " gated " + std::to_string(activation), out,
              reference::gated(gate.data(), up.data(), n, activation), 1e-6, 1e-5);
      keep(bits, out);
    }
  }
}

void test_sums(const Kernels& k, Bits& bits) {
  for (const int64_t n : kLengths) {
    const auto x = random_row(n, 4, 7), y = random_row(n, 4, 8);
    auto sum = guarded(x);
    k.add(sum.data(), y.data(), n);
    for (int64_t i = 0; i < n; ++i) check(sum[i] == x[i] + y[i], "add");
    check(sum.back() == kGuard, "add writes behind its end");
    for (const float softcap : {0.0f, 30.0f}) {
      auto scaled = guarded(x);
      k.scale(scaled.data(), n, 12.5f, softcap);
      compare(std::string(k.isa) + " scale", scaled, reference::scale(x.data(), n, 12.5f, softcap), 1e-6, 0);
      keep(bits, scaled);
    }
  }
}

// To nearest even; f is finite and below the type's largest value.
uint16_t nearest_bf16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  const uint32_t low = bits & 0xffffu, down = bits >> 16;
  return static_cast<uint16_t>(low > 0x8000u || (low == 0x8000u && (down & 1u)) ? down + 1 : down);
}

uint16_t nearest_half(float f) {
  const uint16_t sign = f < 0 ? 0x8000 : 0;
  int exponent;
  const double magnitude = std::fabs(f), mantissa = std::frexp(magnitude, &exponent);  // 0.5 .. 1
  if (magnitude < 0x1p-14) return static_cast<uint16_t>(sign | static_cast<int>(std::nearbyint(magnitude * 0x1p24)));
  const int whole = static_cast<int>(std::nearbyint(mantissa * 2048));  // 1024 .. 2048, a carry reaches the exponent
  return static_cast<uint16_t>(sign | (((exponent + 14) << 10) + whole - 1024));
}

// Every slot is written, then every element of the cache is compared.
void test_kv(const Kernels& k, KvType type, int kv_heads, int head_dim, bool& same, std::vector<uint8_t>& first) {
  const int64_t blocks = 19, row = int64_t{kv_heads} * head_dim, size = type == KvType::F32 ? 4 : 2;
  const int64_t padded = (head_dim + 15) / 16 * 16;
  const bool in_pairs = type == KvType::BF16;
  const int64_t part = kv_head_bytes(type, head_dim), stride = 8 * kv_heads * part + 64;  // a gap behind each group
  std::vector<uint8_t> keys(static_cast<size_t>(3 * stride), 0xab), values = keys;
  const KvLayer layer{type, kv_heads, head_dim, keys.data(), values.data(), blocks, stride, 8 * part};
  // `index`: of an element in a block's part of a head.
  const auto element = [&](const std::vector<uint8_t>& cache, int64_t slot, int64_t h, int64_t index, float f) {
    uint32_t stored = 0, expected = 0;
    const int64_t block = slot / kBlock, at = block / 8 * stride + (h * 8 + block % 8) * part;
    std::memcpy(&stored, cache.data() + at + index * size, static_cast<size_t>(size));
    if (type == KvType::F32) std::memcpy(&expected, &f, 4);
    if (type == KvType::F16) expected = nearest_half(f);
    if (type == KvType::BF16) expected = nearest_bf16(f);
    return stored == expected;
  };
  // Rows are written together: halves of pairs, whole pairs, over a block's border, and not in order.
  const std::vector<std::vector<int32_t>> groups = {{5},    {40, 41}, {15, 16, 17, 18, 19}, {303, 0, 1},
                                                    {7, 8}, {31, 30}, {126, 127, 128, 129}};
  const int64_t k_stride = row + 3, v_stride = row + 5;
  int64_t written = 0;
  for (const std::vector<int32_t>& slots : groups) {
    const int64_t rows = static_cast<int64_t>(slots.size());
    const auto key = random_row(rows * k_stride, 3, static_cast<unsigned>(slots[0]));
    const auto value = random_row(rows * v_stride, 3, 99);
    k.kv_write(layer, {key.data(), value.data(), k_stride, v_stride, slots.data(), rows});
    written += rows;
    bool right = true;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t slot = slots[static_cast<size_t>(r)];
      for (int64_t h = 0; h < kv_heads; ++h) {
        for (int64_t d = 0; d < head_dim; ++d) {
          const int64_t offset = slot % kBlock, i = h * head_dim + d;
          const int64_t at = in_pairs ? (d / 2 * 16 + offset) * 2 + d % 2 : d * kBlock + offset;
          const int64_t value_at = in_pairs ? (offset / 2 * padded + d) * 2 + offset % 2 : offset * head_dim + d;
          right = right && element(keys, slot, h, at, key[static_cast<size_t>(r * k_stride + i)]);
          right = right && element(values, slot, h, value_at, value[static_cast<size_t>(r * v_stride + i)]);
          if (in_pairs && head_dim % 2 && d + 1 == head_dim) right = right && element(keys, slot, h, at + 1, 0.0f);
        }
      }
    }
    check(right, std::string(k.isa) + " kv_write");
  }
  int64_t untouched = 0;
  for (const uint8_t byte : keys) untouched += byte == 0xab;
  const int64_t behind = in_pairs && head_dim % 2 ? kv_heads : 0;  // a zero behind each head's keys
  const bool apart = untouched >= 3 * stride - written * (row + behind) * size;
  check(apart, std::string(k.isa) + " kv_write touches other slots");
  untouched = 0;
  for (const uint8_t byte : values) untouched += byte == 0xab;
  check(untouched >= 3 * stride - written * row * size, std::string(k.isa) + " kv_write touches other values");
  keys.insert(keys.end(), values.begin(), values.end());
  if (first.empty()) first = keys;
  same = same && keys == first;
}

// Integers are within half a quantum of what was written, whatever else the block holds; nothing else is touched.
void test_kv_int8(const Kernels& k, int kv_heads, int head_dim, bool& same, std::vector<uint8_t>& first) {
  const int64_t padded = (head_dim + 15) / 16 * 16, part = padded * 16 + 64, stride = 8 * kv_heads * part + 64;
  const int64_t blocks = 10, row = int64_t{kv_heads} * head_dim;
  std::vector<uint8_t> keys(static_cast<size_t>(2 * stride), 0xab), values = keys;
  const KvLayer layer{KvType::I8, kv_heads, head_dim, keys.data(), values.data(), blocks, stride, 8 * part};
  for (const int32_t slot : {5, 40, 4, 47, 0, 159}) {
    auto key = random_row(row, 3, static_cast<unsigned>(slot)), value = random_row(row, 30, 99);
    if (slot == 40) std::fill(key.begin(), key.end(), 0.0f);
    if (slot == 47) key[0] = INFINITY, value[0] = NAN;
    k.kv_write(layer, {key.data(), value.data(), row, row, &slot, 1});
    bool right = true;
    const int64_t at = slot % kBlock;
    for (int64_t h = 0; h < kv_heads; ++h) {
      const int64_t block = slot / kBlock, head = block / 8 * stride + (h * 8 + block % 8) * part;
      const auto scale_in = [&](const std::vector<uint8_t>& cache) {
        float scale;
        std::memcpy(&scale, cache.data() + head + padded * 16 + at * 4, 4);
        return scale;
      };
      const float key_scale = scale_in(keys), value_scale = scale_in(values);
      if (slot == 47 && h == 0) {
        right = right && std::isnan(key_scale) && std::isinf(value_scale);
        continue;
      }
      float largest = 0;
      for (int64_t d = 0; d < head_dim; ++d)
        largest = std::max(largest, std::fabs(key[static_cast<size_t>(h * head_dim + d)]));
      right = right && key_scale == largest / 127.0f;
      for (int64_t d = 0; d < head_dim; ++d) {
        const auto i = static_cast<size_t>(h * head_dim + d);
        const auto q = [&](const std::vector<uint8_t>& cache, int64_t index) {
          return static_cast<int8_t>(cache[static_cast<size_t>(head + index)]);
        };
        const float k_stored = static_cast<float>(q(keys, (d / 2 * 16 + at) * 2 + d % 2)) * key_scale;
        const float v_stored = static_cast<float>(q(values, (at / 2 * padded + d) * 2 + at % 2)) * value_scale;
        right = right && std::fabs(k_stored - key[i]) <= 0.5001f * key_scale;
        right = right && std::fabs(v_stored - value[i]) <= 0.5001f * value_scale;
      }
    }
    check(right, std::string(k.isa) + " kv_write of integers");
  }
  int64_t untouched = 0;
  for (const uint8_t byte : keys) untouched += byte == 0xab;
  check(untouched >= 2 * stride - 6 * (row + 4 * kv_heads), std::string(k.isa) + " kv_write touches other slots");
  keys.insert(keys.end(), values.begin(), values.end());
  if (first.empty()) first = keys;
  same = same && keys == first;
}

}  // namespace

int main() {
  std::vector<Bits> all;
  for (const std::string& isa : supported_isas()) {
    const Kernels& k = *kernels(isa.c_str());
    Bits bits;
    test_norm(k, bits);
    test_rope(k, bits);
    test_gated(k, bits);
    test_sums(k, bits);
    all.push_back(bits);
    check(std::memcmp(bits.data(), all[0].data(), bits.size() * sizeof(float)) == 0, isa + ": other bits than scalar");
  }
  for (const KvType type : {KvType::F16, KvType::BF16, KvType::F32}) {
    for (const auto& [kv_heads, head_dim] : {std::pair{1, 64}, {3, 80}, {2, 17}, {4, 256}}) {
      std::vector<uint8_t> first;
      bool same = true;
      for (const std::string& isa : supported_isas()) {
        test_kv(*kernels(isa.c_str()), type, kv_heads, head_dim, same, first);
      }
      check(same, "kv_write: instruction sets differ");
    }
  }
  for (const auto& [kv_heads, head_dim] : {std::pair{1, 64}, {3, 80}, {2, 17}, {4, 256}, {1, 1}}) {
    std::vector<uint8_t> first;
    bool same = true;
    for (const std::string& isa : supported_isas()) {
      test_kv_int8(*kernels(isa.c_str()), kv_heads, head_dim, same, first);
    }
    check(same, "kv_write of integers: instruction sets differ");
  }
  check(kernels("sse9") == nullptr, "an unknown instruction set has a table");
  std::printf("%d failures on %zu instruction sets\n", failures, all.size());
  return failures != 0;
}
