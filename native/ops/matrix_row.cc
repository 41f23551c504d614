// One row of a packed matrix as float: the embedding look-up. Exactly the values that the format defines.
#include "matmul.h"

namespace legato::LEGATO_ISA {
namespace {

inline float half_value(const uint8_t* p) {
  alignas(32) uint16_t halves[16] = {};
  __builtin_memcpy(halves, p, 2);
  alignas(64) float wide[16];
  F32x16::load_f16(halves).store(wide);
  return wide[0];
}

// The 32 unsigned values of a lane's group, in order. `words`: the lane's four bytes in the group's first vector.
template <Format F>
void group_values(const uint8_t* words, int32_t* q) {
  for (int k = 0; k < 32; ++k) {
    const int i = k / 4, b = k % 4;
    if constexpr (F == Format::Q8_0) {
      q[k] = words[64 * i + b];
    } else {
      q[k] = words[64 * (i / 2) + b] >> (i % 2 * 4) & 15;
      if constexpr (packed_layout(F).quant_bytes == 320) q[k] |= (words[256 + b] >> i & 1) << 4;
      if constexpr (F == Format::Q6_K) q[k] |= (words[256 + 64 * (i / 4) + b] >> (i % 4 * 2) & 3) << 4;
    }
  }
}

template <Format F>
void quantised_row(const uint8_t* tile, int64_t groups, int lane, float* out) {
  constexpr PackedLayout layout = packed_layout(F);
  constexpr int32_t bias = F == Format::Q8_0 ? 128 : F == Format::Q5_0 ? 16 : F == Format::Q6_K ? 32 : 8;
  for (int64_t g = 0; g < groups; ++g, out += 32) {
    int32_t q[32];
    group_values<F>(tile + layout.quants_at(g) + 4 * lane, q);
    const int64_t sub = g % layout.unit_groups;
    const uint8_t* record = tile + layout.scales_at(g);
    const float d = half_value(tile + layout.d_at(g) + 2 * lane);
    if constexpr (F == Format::Q6_K) {
      for (int k = 0; k < 32; ++k) {
        out[k] = d * (float)(int8_t)record[32 + 32 * sub + k / 16 * 16 + lane] * (float)(q[k] - bias);
      }
    } else if constexpr (F == Format::Q4_K || F == Format::Q5_K) {
      const float scale = d * (float)record[64 + 32 * sub + lane];
      const float minimum = half_value(record + 32 + 2 * lane) * (float)record[64 + 32 * sub + 16 + lane];
      for (int k = 0; k < 32; ++k) out[k] = scale * (float)q[k] + minimum;
    } else if constexpr (F == Format::Q4_1 || F == Format::Q5_1) {
      const float minimum = half_value(record + 32 + 2 * lane);
      for (int k = 0; k < 32; ++k) out[k] = d * (float)q[k] + minimum;
    } else {
      for (int k = 0; k < 32; ++k) out[k] = d * (float)(q[k] - bias);
    }
  }
}

void float_row(Format format, const uint8_t* tile, int64_t columns, int lane, float* out) {
  for (int64_t k = 0; k < columns; ++k) {
    if (format == Format::F32) {
      __builtin_memcpy(out + k, tile + (k * 16 + lane) * 4, 4);
    } else if (format == Format::F16) {
      out[k] = half_value(tile + (k * 16 + lane) * 2);
    } else {
      uint16_t bits;
      __builtin_memcpy(&bits, tile + ((k / 2 * 16 + lane) * 2 + k % 2) * 2, 2);
      const uint32_t wide = (uint32_t)bits << 16;
      __builtin_memcpy(out + k, &wide, 4);
    }
  }
}

}  // namespace

void matrix_row(const Matrix& matrix, int64_t row, float* out) {
  const uint8_t* tile = matrix.data + row / kLanes * matrix.tile_bytes;
  const int lane = (int)(row % kLanes);
  const int64_t groups = matrix.columns / 32;
  switch (matrix.format) {
    case Format::Q8_0:
      return quantised_row<Format::Q8_0>(tile, groups, lane, out);
    case Format::Q4_0:
      return quantised_row<Format::Q4_0>(tile, groups, lane, out);
    case Format::Q4_1:
      return quantised_row<Format::Q4_1>(tile, groups, lane, out);
    case Format::Q5_0:
      return quantised_row<Format::Q5_0>(tile, groups, lane, out);
    case Format::Q5_1:
      return quantised_row<Format::Q5_1>(tile, groups, lane, out);
    case Format::Q4_K:
      return quantised_row<Format::Q4_K>(tile, groups, lane, out);
    case Format::Q5_K:
      return quantised_row<Format::Q5_K>(tile, groups, lane, out);
    case Format::Q6_K:
      return quantised_row<Format::Q6_K>(tile, groups, lane, out);
    default:
      return float_row(matrix.format, tile, matrix.columns, lane, out);
  }
}

}  // namespace legato::LEGATO_ISA
