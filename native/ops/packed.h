// The kernels' weight layout: what pack.cc writes and matmul*.cc reads. All instruction sets share it.
//
// A matrix is a list of tiles of 16 outputs ("lanes"). Float tiles, k ascending:
//   F32   [K][16] float
//   F16   [K][16] half            K rounded up to even
//   BF16  [K/2][16][2] bf16       pairs of inputs, K rounded up to even
// A tile of a quantised format is a list of units, so that a product reads memory in one line, which the hardware
// fetches ahead by itself: a record of scales, then the quants of the groups of 32 inputs that it is for.
//   scales  16 halves or bytes each
//     Q8_0, Q4_0, Q5_0   2 groups in a unit   d of each
//     Q4_1, Q5_1         1 group              d, m
//     Q4_K, Q5_K         8 groups             d, -dmin (halves), then for each group: scales, minima (bytes)
//     Q6_K               8 groups             d (halves), then for each 16 inputs: scales (signed bytes); 32 bytes
//     unused
//   quants  per group, vectors of 64 bytes: byte b of lane n at 4 n + b
//     nibbles: 4 vectors; vector v holds input 8v + b in the low half of a byte, input 8v + 4 + b in the high half
//     bytes (Q8_0): 8 vectors; vector i holds input 4i + b, as weight + 128
//     fifth bit (Q5_*): 1 vector after the nibbles; bit i of a byte belongs to input 4i + b
//     upper two bits (Q6_K): 2 vectors after the nibbles; bits 2(i % 4) of vector i / 4 belong to input 4i + b
// Four bytes of a lane are four consecutive inputs, as the integer dot instructions want them; the values are the
// file's own integers (Q8_0 shifted to unsigned) and scales, so nothing is lost. The last tile's missing outputs, and
// the last unit's missing group, have zero scales. Every vector lies on a cache line of its own.
#pragma once
#include "../include/kernels.h"

namespace legato {

struct PackedLayout {
  int32_t quant_bytes;  // per group
  int32_t unit_groups;
  int32_t scale_bytes;  // per unit

  constexpr int64_t unit_bytes() const { return scale_bytes + (int64_t)unit_groups * quant_bytes; }
  constexpr int64_t tile_bytes(int64_t groups) const { return (groups + unit_groups - 1) / unit_groups * unit_bytes(); }
  // Where a tile keeps the scales of group g's unit, the group's d among them, and its quants.
  constexpr int64_t scales_at(int64_t g) const { return g / unit_groups * unit_bytes(); }
  constexpr int64_t d_at(int64_t g) const { return scales_at(g) + (unit_groups == 2 ? g % 2 * 32 : 0); }
  constexpr int64_t quants_at(int64_t g) const { return scales_at(g) + scale_bytes + g % unit_groups * quant_bytes; }
};

static constexpr PackedLayout packed_layout(Format format) {
  switch (format) {
    case Format::Q8_0:
      return {512, 2, 64};
    case Format::Q4_0:
      return {256, 2, 64};
    case Format::Q4_1:
      return {256, 1, 64};
    case Format::Q5_0:
      return {320, 2, 64};
    case Format::Q5_1:
      return {320, 1, 64};
    case Format::Q4_K:
      return {256, 8, 64 + 8 * 32};
    case Format::Q5_K:
      return {320, 8, 64 + 8 * 32};
    case Format::Q6_K:
      return {384, 8, 64 + 16 * 16};
    default:
      return {0, 1, 0};
  }
}

static constexpr bool is_quantised(Format format) { return packed_layout(format).quant_bytes != 0; }

// A prepared row in Q8 form: one record per group of 32 inputs.
//   scale = max|x| / 127 (0 if max|x| <= 2^-100), values = round(x * (127 / max|x|)), ties to even
// An infinity or NaN among the inputs makes the scale NaN, and so every product of the row.
struct Q8Group {
  int8_t values[32];
  float scale;
  float scaled_sum;       // scale * float(sum of values)
  int32_t minus_sum;      // -(sum of values)
  int32_t minus_sum_low;  // -(sum of values[0..15])
};
static_assert(sizeof(Q8Group) == 48);

}  // namespace legato
