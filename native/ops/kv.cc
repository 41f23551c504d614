// Writes rows' keys and values into their slots of the paged cache, in the cache's storage type.
#include "../simd/simd.h"
#include "fill.h"

namespace legato::LEGATO_ISA {
namespace {

// Pairs of 16-bit numbers: the even lanes of 32 numbers in the lower halves, the odd ones in the upper.
inline I32x16 pairs(F32x16 even, F32x16 odd) {
  return (shift_right<16>(float_to_bits(even)) & I32x16::splat(0xffff)) | float_to_bits(odd);
}
inline F32x16 rounded(const float* x, int64_t left) {  // the first 16 of `left` numbers; what is missing is zero
  return left <= 0 ? F32x16::zero() : round_to_bf16(F32x16::load_partial(x, left < kLanes ? (int)left : kLanes));
}

// Keys of one head: [head_dim / 2][16 positions][2], from the position on.
void write_keys_bf16(int64_t dim, const float* k, uint16_t* keys) {
  for (int64_t d = 0; d < dim; d += 2 * kLanes) {
    const F32x16 first = rounded(k + d, dim - d), second = rounded(k + d + kLanes, dim - d - kLanes);
    alignas(64) int32_t part[kLanes];
    pairs(evens(first, second), odds(first, second)).store(part);
    for (int64_t i = 0; i < kLanes && d + 2 * i < dim; ++i, keys += 2 * kBlock) __builtin_memcpy(keys, part + i, 4);
  }
}

// Values of one head: [8 pairs of positions][padded head_dim][2], from the pair on. Single halves are written: the
// other thread may be at the position beside this one.
void write_values_bf16(int64_t dim, const float* v, uint16_t* values) {
  for (int64_t d = 0; d < dim; d += kLanes, values += 2 * kLanes) {
    alignas(64) float part[kLanes];
    rounded(v + d, dim - d).store(part);
    for (int64_t i = 0; i < kLanes && d + i < dim; ++i) __builtin_memcpy(values + 2 * i, (char*)(part + i) + 2, 2);
  }
}
// The values of both positions.
void write_pair_bf16(int64_t dim, const float* even, const float* odd, uint16_t* values) {
  for (int64_t d = 0; d < dim; d += kLanes, values += 2 * kLanes) {
    const I32x16 both = pairs(rounded(even + d, dim - d), rounded(odd + d, dim - d));
    bits_to_float(both).store_partial((float*)values, dim - d < kLanes ? (int)(dim - d) : kLanes);
  }
}

void write_bf16(const KvLayer& layer, const KvRows& x) {
  const int64_t dim = layer.head_dim, padded = (dim + 15) / 16 * 16;
  for (int64_t r = 0; r < x.rows; ++r) {
    const int64_t slot = x.slots[r], offset = slot % kBlock;
    const auto is_after = [&](int64_t row) { return row < x.rows && x.slots[row] == x.slots[row - 1] + 1; };
    const bool begins_pair = offset % 2 == 0 && is_after(r + 1), is_written = offset % 2 == 1 && r > 0 && is_after(r);
    for (int64_t h = 0; h < layer.kv_heads; ++h) {
      const float *k = x.k + r * x.k_stride + h * dim, *v = x.v + r * x.v_stride + h * dim;
      const int64_t at = layer.at(slot / kBlock, h);
      write_keys_bf16(dim, k, (uint16_t*)(layer.k + at) + 2 * offset);
      uint16_t* values = (uint16_t*)(layer.v + at) + offset / 2 * (2 * padded);
      if (begins_pair) {
        write_pair_bf16(dim, v, v + x.v_stride, values);
      } else if (!is_written) {
        write_values_bf16(dim, v, values + offset % 2);
      }
    }
  }
}

// keys: [head_dim][16 positions], values: [head_dim]; both begin at the position's offset in the block.
void write_head_f16(int64_t dim, const float* k, const float* v, uint16_t* keys, uint16_t* values) {
  for (int64_t d = 0; d < dim; d += kLanes) {
    const int n = static_cast<int>(dim - d < kLanes ? dim - d : kLanes);
    uint16_t part[kLanes];
    F32x16::load_partial(k + d, n).store_f16(part);
    for (int i = 0; i < n; ++i) keys[(d + i) * kBlock] = part[i];
    F32x16::load_partial(v + d, n).store_f16(part);
    for (int i = 0; i < n; ++i) values[d + i] = part[i];
  }
}

void write_head_f32(int64_t dim, const float* k, const float* v, float* keys, float* values) {
  for (int64_t d = 0; d < dim; ++d) {
    keys[d * kBlock] = k[d];
    values[d] = v[d];
  }
}

// x as integers and their scale; `unusable` is the scale of values that are not finite, whose integers are 0.
float quantise(const float* x, int64_t dim, float unusable, int8_t* out) {
  F32x16 most = F32x16::zero();
  const F32x16 infinity = F32x16::splat(__builtin_inff());
  bool finite = true;
  const auto part = [&](int64_t d) {
    return F32x16::load_partial(x + d, static_cast<int>(dim - d < kLanes ? dim - d : kLanes));
  };
  for (int64_t d = 0; d < dim; d += kLanes) {
    const F32x16 size = abs(part(d));
    finite = finite && less(size, infinity) == 0xffff;
    most = max(most, size);
  }
  const float largest = finite ? reduce_max(most) : 0.0f;
  const bool zero = !(largest > 0x1p-100f);
  const F32x16 inverse = F32x16::splat(zero ? 0.0f : 127.0f / largest);
  for (int64_t d = 0; d < dim; d += kLanes) {
    int32_t all[kLanes] = {};
    if (!zero) to_int(part(d) * inverse).store(all);
    for (int64_t i = 0; i < kLanes && d + i < dim; ++i) {
      out[d + i] = static_cast<int8_t>(all[i] > 127 ? 127 : all[i] < -127 ? -127 : all[i]);
    }
  }
  return !finite ? unusable : zero ? 0.0f : largest / 127.0f;
}

// One head; keys and values begin at its part of the block.
void write_head_int8(int64_t dim, int64_t offset, const float* k, const float* v, uint8_t* keys, uint8_t* values) {
  const int64_t padded = (dim + 15) / 16 * 16;
  int8_t row[kMostInt8Dimensions];
  float scale = quantise(k, dim, __builtin_nanf(""), row);
  for (int64_t d = 0; d < dim; ++d) keys[d / 2 * (2 * kBlock) + 2 * offset + d % 2] = static_cast<uint8_t>(row[d]);
  __builtin_memcpy(keys + padded * kBlock + 4 * offset, &scale, 4);
  scale = quantise(v, dim, __builtin_inff(), row);
  uint8_t* pair = values + offset / 2 * (2 * padded) + offset % 2;
  for (int64_t d = 0; d < dim; ++d) pair[2 * d] = static_cast<uint8_t>(row[d]);
  __builtin_memcpy(values + padded * kBlock + 4 * offset, &scale, 4);
}

// k, v: [kv_heads][head_dim].
void write_row(const KvLayer& layer, const float* k, const float* v, int64_t slot) {
  const int64_t offset = slot % kBlock, dim = layer.head_dim;
  for (int64_t h = 0; h < layer.kv_heads; ++h, k += dim, v += dim) {
    const int64_t at = layer.at(slot / kBlock, h), value = offset * dim;
    if (layer.type == KvType::I8) {
      write_head_int8(dim, offset, k, v, layer.k + at, layer.v + at);
    } else if (layer.type == KvType::F32) {
      float* keys = reinterpret_cast<float*>(layer.k + at) + offset;
      write_head_f32(dim, k, v, keys, reinterpret_cast<float*>(layer.v + at) + value);
    } else {
      uint16_t* keys = reinterpret_cast<uint16_t*>(layer.k + at) + offset;
      write_head_f16(dim, k, v, keys, reinterpret_cast<uint16_t*>(layer.v + at) + value);
    }
  }
}

void kv_write(const KvLayer& layer, const KvRows& x) {
  if (layer.type == KvType::BF16) return write_bf16(layer, x);
  for (int64_t r = 0; r < x.rows; ++r) write_row(layer, x.k + r * x.k_stride, x.v + r * x.v_stride, x.slots[r]);
}

}  // namespace

void fill_kv(Kernels& table) { table.kv_write = kv_write; }

}  // namespace legato::LEGATO_ISA
