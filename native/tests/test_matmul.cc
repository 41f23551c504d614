// Matrix products of every weight format on every instruction set that this machine has.
//   values  against the double-precision reference, within the bound that the number of roundings gives
//   bits    of a row alone and in any batch, of any range of tiles; of quantised formats on all instruction sets
//   rows    of packed matrices equal to the format's definition
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../ops/reference_matmul.h"

using namespace legato;

namespace {

const char* const kIsas[] = {"scalar", "avx2", "avx512", "avx512_vnni", "avx512_bf16"};
const char* const kNames[] = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"};
constexpr float kUntouched = 12345.0f;
int failures = 0;

void check(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

bool quantised(Format format) { return (int)format >= (int)Format::Q8_0; }

struct Aligned {
  explicit Aligned(size_t bytes) : data((uint8_t*)std::aligned_alloc(64, (bytes + 63) / 64 * 64)) {}
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  uint8_t* data;
};

// Where a block of `format` keeps its half-precision scales.
std::vector<int> scale_offsets(Format format) {
  switch (format) {
    case Format::Q4_1:
    case Format::Q5_1:
    case Format::Q4_K:
    case Format::Q5_K:
      return {0, 2};
    case Format::Q6_K:
      return {208};
    default:
      return {0};
  }
}

int64_t block_values(Format format) { return source_row_bytes(format, 32) > 0 ? 32 : 256; }

// Random checkpoint bytes. full: every stored integer at its extreme, to provoke overflow.
std::vector<uint8_t> random_source(Format format, int64_t rows, int64_t columns, bool full, std::mt19937& random) {
  const int64_t stride = source_row_bytes(format, columns);
  std::vector<uint8_t> source((size_t)(rows * stride));
  if (!quantised(format)) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows * columns; ++i) {
      float value = normal(random);
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      uint16_t half = format == Format::BF16 ? (uint16_t)(bits >> 16) : (uint16_t)(random() & 0xbfff);
      if (format == Format::F32)
        std::memcpy(&source[(size_t)i * 4], &bits, 4);
      else
        std::memcpy(&source[(size_t)i * 2], &half, 2);
    }
    return source;
  }
  for (auto& byte : source) byte = (uint8_t)(full ? (format == Format::Q8_0 ? 0x80 : 0xff) : random());
  const int64_t block = block_values(format), block_bytes = source_row_bytes(format, block);
  for (size_t at = 0; at < source.size(); at += (size_t)block_bytes) {
    for (int offset : scale_offsets(format)) {
      const uint16_t half = (uint16_t)((random() & 0x83ff) | (8 + random() % 8) << 10);  // 2^-7 .. 2
      std::memcpy(&source[at + (size_t)offset], &half, 2);
    }
  }
  return source;
}

std::vector<float> random_rows(int64_t rows, int64_t columns, bool full, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x((size_t)(rows * columns));
  for (auto& value : x) value = full ? 3.0f : normal(random);
  if (full) return x;
  for (int64_t r = 0; r < rows; ++r) {
    x[(size_t)(r * columns + r % columns)] = 300.0f;  // an outlier
    if (columns >= 64) std::memset(&x[(size_t)(r * columns + 32)], 0, 32 * sizeof(float));
  }
  return x;
}

struct Case {
  Format format;
  int64_t outputs, columns, rows;
  bool full;
  std::string name() const {
    return std::string(kNames[(int)format]) + " " + std::to_string(outputs) + "x" + std::to_string(columns) + " rows " +
           std::to_string(rows) + (full ? " full" : "");
  }
};

struct Scene {
  Case c;
  std::vector<uint8_t> source;
  std::vector<float> x, bias;
  Aligned packed;
  Matrix matrix;
  int64_t tiles, stride;

  Scene(const Case& c, unsigned seed)
      : c(c), packed((size_t)((c.outputs + 15) / 16 * packed_tile_bytes(c.format, c.columns))) {
    std::mt19937 random(seed);
    source = random_source(c.format, c.outputs, c.columns, c.full, random);
    x = random_rows(c.rows, c.columns, c.full, random);
    bias = random_rows(1, c.outputs, false, random);
    tiles = (c.outputs + 15) / 16;
    stride = tiles * 16 + 7;
    pack(c.format, source.data(), c.outputs, c.columns, 0, tiles, packed.data);
    matrix = {c.format, c.outputs, c.columns, packed.data, packed_tile_bytes(c.format, c.columns)};
  }

  // All rows by all tiles in one call, [rows][stride].
  std::vector<float> run(const Kernels& k, int64_t first, int64_t count, int64_t tile_begin, int64_t tile_end,
                         const float* with_bias = nullptr, bool accumulate = false) const {
    std::vector<float> out((size_t)(count * stride), kUntouched);
    const RowForm form = k.row_form(c.format);
    Aligned prepared((size_t)count * k.row_bytes(form, c.columns));
    k.prepare_rows(form, x.data() + first * c.columns, c.columns, count, c.columns, prepared.data);
    k.matmul(matrix, prepared.data, count, tile_begin, tile_end, out.data(), stride, with_bias, accumulate);
    return out;
  }
};

void test_values(const Scene& s, const Kernels& k, const std::vector<float>& got) {
  const RowForm form = k.row_form(s.c.format);
  // Roundings of a chain: an addition and at most two factors for each group, or one for each input.
  const double roundings = quantised(s.c.format) ? 6.0 * (double)s.c.columns / 32 + 4 : 2.0 * (double)s.c.columns + 4;
  std::vector<reference::WeightRow> weights;
  for (int64_t n = 0; n < s.c.outputs; ++n) {
    weights.push_back(
        reference::read_row(s.c.format, s.source.data() + n * source_row_bytes(s.c.format, s.c.columns), s.c.columns));
  }
  int bad = 0;
  for (int64_t r = 0; r < s.c.rows; ++r) {
    const auto seen = reference::seen_row(form, s.x.data() + r * s.c.columns, s.c.columns);
    for (int64_t n = 0; n < s.stride; ++n) {
      const float value = got[(size_t)(r * s.stride + n)];
      if (n >= s.c.outputs) {
        bad += value != kUntouched;
        continue;
      }
      const auto want = reference::dot(weights[(size_t)n], seen);
      bad += !(std::fabs(value - want.value) <= roundings * 0x1p-24 * want.magnitude + 1e-30);
    }
  }
  check(bad == 0, s.c.name() + " " + k.isa + ": " + std::to_string(bad) + " values off");
}

bool same(const float* a, const float* b, int64_t n) { return std::memcmp(a, b, (size_t)n * sizeof(float)) == 0; }

void test_bits(const Scene& s, const Kernels& k, const std::vector<float>& all) {
  const int64_t n = s.c.outputs;
  const std::string name = s.c.name() + " " + k.isa;
  for (int64_t count : {1, 2, 3, 5, 7, 8, 13}) {
    if (count > s.c.rows) break;
    bool ok = true;
    for (int64_t first = 0; first + count <= s.c.rows; first += count + 2) {
      const auto part = s.run(k, first, count, 0, s.tiles);
      for (int64_t r = 0; r < count; ++r)
        ok &= same(&part[(size_t)(r * s.stride)], &all[(size_t)((first + r) * s.stride)], n);
    }
    check(ok, name + ": batches of " + std::to_string(count));
  }
  for (int64_t begin = 0; begin < s.tiles; ++begin) {
    const int64_t end = begin + 1 + begin % 3 < s.tiles ? begin + 1 + begin % 3 : s.tiles;
    const auto part = s.run(k, 0, s.c.rows, begin, end);
    bool ok = true;
    for (int64_t r = 0; r < s.c.rows; ++r) {
      for (int64_t j = 0; j < s.stride; ++j) {
        const bool inside = j >= begin * 16 && j < end * 16 && j < n;
        ok &= part[(size_t)(r * s.stride + j)] == (inside ? all[(size_t)(r * s.stride + j)] : kUntouched);
      }
    }
    check(ok, name + ": tiles " + std::to_string(begin) + " to " + std::to_string(end));
  }
  const auto added = s.run(k, 0, s.c.rows, 0, s.tiles, s.bias.data(), true);
  bool ok = true;
  for (int64_t r = 0; r < s.c.rows; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      const float sum = all[(size_t)(r * s.stride + j)] + s.bias[(size_t)j];
      ok &= added[(size_t)(r * s.stride + j)] == sum + kUntouched;
    }
  }
  check(ok, name + ": bias and accumulation");
}

void test_matrix_rows(const Scene& s, const Kernels& k) {
  bool ok = true;
  std::vector<float> got((size_t)s.c.columns);
  for (int64_t n = 0; n < s.c.outputs; ++n) {
    const auto want =
        reference::read_row(s.c.format, s.source.data() + n * source_row_bytes(s.c.format, s.c.columns), s.c.columns);
    k.matrix_row(s.matrix, n, got.data());
    for (int64_t j = 0; j < s.c.columns; ++j) ok &= got[(size_t)j] == want.value(j);
  }
  check(ok, s.c.name() + " " + k.isa + ": matrix_row");
}

// One NaN or infinity among the inputs reaches every product of its row, and no other row.
void test_broken_inputs(Scene& s, const Kernels& k) {
  const auto good = s.run(k, 0, s.c.rows, 0, s.tiles), x = s.x;
  s.x[(size_t)(s.c.columns + 1)] = INFINITY;
  s.x[(size_t)(2 * s.c.columns)] = NAN;
  const auto bad = s.run(k, 0, s.c.rows, 0, s.tiles);
  bool ok = true;
  for (int64_t r = 0; r < s.c.rows; ++r) {
    for (int64_t n = 0; n < s.c.outputs; ++n) {
      const size_t at = (size_t)(r * s.stride + n);
      ok &= r == 1 || r == 2 ? !std::isfinite(bad[at]) : bad[at] == good[at];
    }
  }
  check(ok, s.c.name() + " " + k.isa + ": broken inputs");
  s.x = x;
}

void test_case(const Case& c, unsigned seed) {
  Scene s(c, seed);
  std::vector<float> first;
  for (const char* isa : kIsas) {
    const Kernels* k = kernels(isa);
    if (!k) continue;
    const auto all = s.run(*k, 0, c.rows, 0, s.tiles);
    test_values(s, *k, all);
    test_bits(s, *k, all);
    test_matrix_rows(s, *k);
    if (c.rows == 5) test_broken_inputs(s, *k);
    if (!quantised(c.format)) continue;
    if (first.empty()) first = all;
    check(same(first.data(), all.data(), (int64_t)all.size()), c.name() + " " + isa + ": not the bits of scalar");
  }
}

}  // namespace

int main() {
  unsigned seed = 1;
  for (int f = 0; f < (int)Format::kCount; ++f) {
    const Format format = (Format)f;
    const int64_t block = quantised(format) ? block_values(format) : 1;
    const int64_t wide = quantised(format) ? 576 / block * block : 77;
    test_case({format, 5, block, 3, false}, ++seed);
    test_case({format, 100, wide, 29, false}, ++seed);
    test_case({format, 64, 3 * block, 5, true}, ++seed);
    test_case({format, 16, 8192, 111, false}, ++seed);
  }
  std::printf(failures ? "%d failures\n" : "matmul: all equal\n", failures);
  return failures != 0;
}
