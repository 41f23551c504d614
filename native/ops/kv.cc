// Writes one row's keys and values into its slot of the paged cache, in the cache's storage type.
#include "../simd/simd.h"
#include "fill.h"

namespace legato::LEGATO_ISA {
namespace {

// float -> bfloat16, to nearest even; a NaN stays one.
inline uint16_t to_bf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// One head; keys and values begin at its part of the block. Single halves are written: the other thread may be at the
// position beside this one.
void write_head_bf16(int64_t dim, int64_t offset, const float* k, const float* v, uint16_t* keys, uint16_t* values) {
  uint16_t* pair = values + offset / 2 * (2 * ((dim + 15) / 16 * 16)) + offset % 2;
  for (int64_t d = 0; d < dim; ++d) {
    keys[d / 2 * (2 * kBlock) + 2 * offset + d % 2] = to_bf16(k[d]);
    pair[2 * d] = to_bf16(v[d]);
  }
  if (dim % 2) keys[dim / 2 * (2 * kBlock) + 2 * offset + 1] = 0;
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

// k, v: [kv_heads][head_dim] of one row.
void kv_write(const KvLayer& layer, const float* k, const float* v, int64_t slot) {
  const int64_t block = slot / kBlock * layer.block_stride, offset = slot % kBlock, dim = layer.head_dim;
  for (int64_t h = 0; h < layer.kv_heads; ++h, k += dim, v += dim) {
    const int64_t key = h * dim * kBlock + offset, value = (h * kBlock + offset) * dim;
    if (layer.type == KvType::I8) {
      const int64_t head = block + h * kv_head_bytes(KvType::I8, dim);
      write_head_int8(dim, offset, k, v, layer.k + head, layer.v + head);
    } else if (layer.type == KvType::BF16) {
      const int64_t head = block + h * kv_head_bytes(KvType::BF16, dim);
      uint16_t* keys = reinterpret_cast<uint16_t*>(layer.k + head);
      write_head_bf16(dim, offset, k, v, keys, reinterpret_cast<uint16_t*>(layer.v + head));
    } else if (layer.type == KvType::F32) {
      float* keys = reinterpret_cast<float*>(layer.k + block) + key;
      write_head_f32(dim, k, v, keys, reinterpret_cast<float*>(layer.v + block) + value);
    } else {
      uint16_t* keys = reinterpret_cast<uint16_t*>(layer.k + block) + key;
      write_head_f16(dim, k, v, keys, reinterpret_cast<uint16_t*>(layer.v + block) + value);
    }
  }
}

}  // namespace

void fill_kv(Kernels& table) { table.kv_write = kv_write; }

}  // namespace legato::LEGATO_ISA
