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

// Up to 16 floats -> 16-bit storage.
inline void narrow(KvType type, const float* x, int n, uint16_t* out) {
  if (type == KvType::BF16) {
    for (int i = 0; i < n; ++i) out[i] = to_bf16(x[i]);
    return;
  }
  uint16_t all[kLanes];
  F32x16::load_partial(x, n).store_f16(all);
  for (int i = 0; i < n; ++i) out[i] = all[i];
}

// K: dimension d of a head lies at [d][offset], V: at [offset][d].
void write_head_16bit(const KvLayer& layer, const float* k, const float* v, int64_t head, int64_t offset) {
  const int64_t dim = layer.head_dim;
  uint16_t* keys = reinterpret_cast<uint16_t*>(layer.k) + head * dim * kBlock + offset;
  uint16_t* values = reinterpret_cast<uint16_t*>(layer.v) + (head * kBlock + offset) * dim;
  for (int64_t d = 0; d < dim; d += kLanes) {
    const int n = static_cast<int>(dim - d < kLanes ? dim - d : kLanes);
    uint16_t part[kLanes];
    narrow(layer.type, k + d, n, part);
    for (int i = 0; i < n; ++i) keys[(d + i) * kBlock] = part[i];
    narrow(layer.type, v + d, n, values + d);
  }
}

void write_head_f32(const KvLayer& layer, const float* k, const float* v, int64_t head, int64_t offset) {
  const int64_t dim = layer.head_dim;
  float* keys = reinterpret_cast<float*>(layer.k) + head * dim * kBlock + offset;
  float* values = reinterpret_cast<float*>(layer.v) + (head * kBlock + offset) * dim;
  for (int64_t d = 0; d < dim; ++d) {
    keys[d * kBlock] = k[d];
    values[d] = v[d];
  }
}

// k, v: [kv_heads][head_dim] of one row.
void kv_write(const KvLayer& layer, const float* k, const float* v, int64_t slot) {
  const int64_t block = slot / kBlock, offset = slot % kBlock;
  for (int64_t h = 0; h < layer.kv_heads; ++h) {
    const int64_t head = block * layer.kv_heads + h;
    const float* k_head = k + h * layer.head_dim;
    const float* v_head = v + h * layer.head_dim;
    if (layer.type == KvType::F32) {
      write_head_f32(layer, k_head, v_head, head, offset);
    } else {
      write_head_16bit(layer, k_head, v_head, head, offset);
    }
  }
}

}  // namespace

void fill_kv(Kernels& table) { table.kv_write = kv_write; }

}  // namespace legato::LEGATO_ISA
