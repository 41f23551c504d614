// Checkpoint bytes -> tiles (packed.h). Done once at load; the same bytes for every instruction set.
#include <cstring>

#include "packed.h"

namespace legato {
namespace {

// Quantised blocks exactly as GGUF stores them.
struct SourceBlock {
  int32_t values, bytes;
};

constexpr SourceBlock source_block(Format format) {
  switch (format) {
    case Format::F32:
      return {1, 4};
    case Format::F16:
      return {1, 2};
    case Format::BF16:
      return {1, 2};
    case Format::Q8_0:
      return {32, 34};
    case Format::Q4_0:
      return {32, 18};
    case Format::Q4_1:
      return {32, 20};
    case Format::Q5_0:
      return {32, 22};
    case Format::Q5_1:
      return {32, 24};
    case Format::Q4_K:
      return {256, 144};
    case Format::Q5_K:
      return {256, 176};
    case Format::Q6_K:
      return {256, 210};
    default:
      return {0, 0};
  }
}

// Writes the 32 unsigned values of one group in their natural order.
//   block: the start of the 32-value block, or of the 256-value super-block; sub: which group of the super-block.
template <Format F>
void group_values(const uint8_t* block, int sub, uint8_t* q) {
  if constexpr (F == Format::Q8_0) {
    for (int k = 0; k < 32; ++k) q[k] = (uint8_t)(block[2 + k] ^ 0x80);
  } else if constexpr (F == Format::Q4_0 || F == Format::Q4_1) {
    const uint8_t* nibbles = block + (F == Format::Q4_0 ? 2 : 4);
    for (int k = 0; k < 16; ++k) {
      q[k] = nibbles[k] & 15;
      q[k + 16] = nibbles[k] >> 4;
    }
  } else if constexpr (F == Format::Q5_0 || F == Format::Q5_1) {
    const uint8_t* high = block + (F == Format::Q5_0 ? 2 : 4);
    const uint8_t* nibbles = high + 4;
    uint32_t bits;
    std::memcpy(&bits, high, 4);
    for (int k = 0; k < 16; ++k) {
      q[k] = (uint8_t)((nibbles[k] & 15) | (bits >> k & 1) << 4);
      q[k + 16] = (uint8_t)(nibbles[k] >> 4 | (bits >> (k + 16) & 1) << 4);
    }
  } else if constexpr (F == Format::Q4_K || F == Format::Q5_K) {
    // d, dmin (half), 12 bytes of 6-bit scales, [Q5_K: 32 bytes of fifth bits,] 128 bytes of nibbles
    const uint8_t* nibbles = block + (F == Format::Q4_K ? 16 : 48) + (sub / 2) * 32;
    const int shift = (sub & 1) * 4;
    for (int k = 0; k < 32; ++k) q[k] = nibbles[k] >> shift & 15;
    if constexpr (F == Format::Q5_K) {
      for (int k = 0; k < 32; ++k) q[k] = (uint8_t)(q[k] | (block[16 + k] >> sub & 1) << 4);
    }
  } else if constexpr (F == Format::Q6_K) {
    // 128 bytes of nibbles, 64 of upper pairs, 16 signed scales, d; halves of 128 values = 4 groups
    const uint8_t* nibbles = block + (sub / 4) * 64 + (sub & 1) * 32;
    const uint8_t* upper = block + 128 + (sub / 4) * 32;
    const int nibble_shift = (sub & 2) * 2, upper_shift = (sub & 3) * 2;
    for (int k = 0; k < 32; ++k) {
      q[k] = (uint8_t)((nibbles[k] >> nibble_shift & 15) | (upper[k] >> upper_shift & 3) << 4);
    }
  }
}

// The 32 values of one lane into the group's vectors.
template <Format F>
void store_values(const uint8_t* q, int lane, uint8_t* out) {
  out += 4 * lane;
  if constexpr (F == Format::Q8_0) {
    for (int i = 0; i < 8; ++i) std::memcpy(out + 64 * i, q + 4 * i, 4);
    return;
  }
  for (int v = 0; v < 4; ++v) {
    uint32_t low, high;
    std::memcpy(&low, q + 8 * v, 4);
    std::memcpy(&high, q + 8 * v + 4, 4);
    const uint32_t both = (low & 0x0f0f0f0fu) | (high & 0x0f0f0f0fu) << 4;
    std::memcpy(out + 64 * v, &both, 4);
  }
  if constexpr (F == Format::Q5_0 || F == Format::Q5_1 || F == Format::Q5_K) {
    uint32_t plane = 0;
    for (int i = 0; i < 8; ++i) {
      uint32_t four;
      std::memcpy(&four, q + 4 * i, 4);
      plane |= (four >> 4 & 0x01010101u) << i;
    }
    std::memcpy(out + 256, &plane, 4);
  } else if constexpr (F == Format::Q6_K) {
    for (int p = 0; p < 2; ++p) {
      uint32_t plane = 0;
      for (int i = 0; i < 4; ++i) {
        uint32_t four;
        std::memcpy(&four, q + 16 * p + 4 * i, 4);
        plane |= (four >> 4 & 0x03030303u) << (2 * i);
      }
      std::memcpy(out + 256 + 64 * p, &plane, 4);
    }
  }
}

// 6-bit scale and minimum number `sub` of a Q4_K / Q5_K super-block.
void sub_scale(const uint8_t* scales, int sub, uint8_t* scale, uint8_t* minimum) {
  if (sub < 4) {
    *scale = scales[sub] & 63;
    *minimum = scales[sub + 4] & 63;
  } else {
    *scale = (uint8_t)((scales[sub + 4] & 15) | (scales[sub - 4] >> 6) << 4);
    *minimum = (uint8_t)(scales[sub + 4] >> 4 | (scales[sub] >> 6) << 4);
  }
}

void copy_half(const uint8_t* source, int lane, uint8_t* out) { std::memcpy(out + 2 * lane, source, 2); }

// The scales of one block (or super-block) of one lane into its scale record.
template <Format F>
void store_scales(const uint8_t* block, int lane, uint8_t* out) {
  if constexpr (F == Format::Q6_K) {
    copy_half(block + 208, lane, out);
    for (int s = 0; s < 16; ++s) out[32 + 16 * s + lane] = block[192 + s];
    return;
  }
  copy_half(block, lane, out);
  if constexpr (F == Format::Q4_1 || F == Format::Q5_1) copy_half(block + 2, lane, out + 32);
  if constexpr (F == Format::Q4_K || F == Format::Q5_K) {
    const uint8_t minus[2] = {block[2], (uint8_t)(block[3] ^ 0x80)};
    copy_half(minus, lane, out + 32);
    for (int s = 0; s < 8; ++s) sub_scale(block + 4, s, out + 64 + 32 * s + lane, out + 64 + 32 * s + 16 + lane);
  }
}

template <Format F>
void pack_tile(const uint8_t* source, int64_t row_stride, int lanes, int64_t columns, uint8_t* out) {
  constexpr PackedLayout layout = packed_layout(F);
  constexpr SourceBlock block = source_block(F);
  constexpr int block_groups = block.values / 32;
  for (int lane = 0; lane < lanes; ++lane) {
    const uint8_t* row = source + lane * row_stride;
    for (int64_t b = 0; b < columns / block.values; ++b) {
      const uint8_t* from = row + b * block.bytes;
      for (int sub = 0; sub < block_groups; ++sub) {
        uint8_t q[32];
        group_values<F>(from, sub, q);
        store_values<F>(q, lane, out + layout.quants_at(b * block_groups + sub));
      }
      store_scales<F>(from, lane, out + layout.d_at(b * block_groups));
    }
  }
}

void pack_float_tile(Format format, const uint8_t* source, int64_t row_stride, int lanes, int64_t columns,
                     uint8_t* out) {
  const int64_t size = source_block(format).bytes;
  for (int lane = 0; lane < lanes; ++lane) {
    const uint8_t* row = source + lane * row_stride;
    for (int64_t k = 0; k < columns; ++k) {
      const int64_t at = format == Format::BF16 ? (k / 2 * 16 + lane) * 2 + k % 2 : k * 16 + lane;
      std::memcpy(out + at * size, row + k * size, (size_t)size);
    }
  }
}

}  // namespace

int64_t source_row_bytes(Format format, int64_t columns) {
  const SourceBlock block = source_block(format);
  if (block.values == 0 || columns <= 0 || columns % block.values != 0) return -1;
  return columns / block.values * block.bytes;
}

int64_t packed_tile_bytes(Format format, int64_t columns) {
  if (!is_quantised(format)) return format == Format::F32 ? columns * 64 : (columns + 1) / 2 * 64;
  return packed_layout(format).tile_bytes(columns / 32);
}

void pack(Format format, const uint8_t* source, int64_t rows, int64_t columns, int64_t tile_begin, int64_t tile_end,
          uint8_t* out) {
  const int64_t stride = source_row_bytes(format, columns), tile_bytes = packed_tile_bytes(format, columns);
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    const uint8_t* from = source + tile * kLanes * stride;
    uint8_t* to = out + tile * tile_bytes;
    const int lanes = (int)(rows - tile * kLanes < kLanes ? rows - tile * kLanes : kLanes);
    std::memset(to, 0, (size_t)tile_bytes);
    switch (format) {
      case Format::Q8_0:
        pack_tile<Format::Q8_0>(from, stride, lanes, columns, to);
        break;
      case Format::Q4_0:
        pack_tile<Format::Q4_0>(from, stride, lanes, columns, to);
        break;
      case Format::Q4_1:
        pack_tile<Format::Q4_1>(from, stride, lanes, columns, to);
        break;
      case Format::Q5_0:
        pack_tile<Format::Q5_0>(from, stride, lanes, columns, to);
        break;
      case Format::Q5_1:
        pack_tile<Format::Q5_1>(from, stride, lanes, columns, to);
        break;
      case Format::Q4_K:
        pack_tile<Format::Q4_K>(from, stride, lanes, columns, to);
        break;
      case Format::Q5_K:
        pack_tile<Format::Q5_K>(from, stride, lanes, columns, to);
        break;
      case Format::Q6_K:
        pack_tile<Format::Q6_K>(from, stride, lanes, columns, to);
        break;
      default:
        pack_float_tile(format, from, stride, lanes, columns, to);
    }
  }
}

}  // namespace legato
