#include "kv_pool.h"

#include <algorithm>

namespace legato {

KvPool::KvPool(int layers, int64_t blocks, KvType type, int kv_heads, int head_dim) {
  const int64_t piece = kKvGroup * kv_head_bytes(type, head_dim);  // K or V of a head in a group
  // Not a multiple of a page: the groups of a layer would share the sets of the first-level cache.
  const int64_t stride = (2 * piece * kv_heads * layers + 4095) / 4096 * 4096 + 17 * 64;
  memory_ = std::make_shared<GrowingRegion>((blocks + kKvGroup - 1) / kKvGroup * stride);
  for (int layer = 0; layer < layers; ++layer) {
    uint8_t* k = memory_->data() + 2 * layer * kv_heads * piece;
    layers_.push_back({type, kv_heads, head_dim, k, k + piece, blocks, stride, 2 * piece});
  }
}

// The first touch of a large page takes a tenth of a millisecond, and more than four where a virtual machine's host has
// to find the memory: as long as a step. So the groups that will probably be used next (those in front are given away
// first) are made resident by a thread that has nothing else to do.
void KvPool::want(int64_t block) {
  constexpr size_t kAhead = size_t{16} << 20;
  memory_->want(static_cast<size_t>((block / kKvGroup + 1) * layers_[0].group_stride), kAhead);
}

int64_t KvPool::block_bytes() const { return num_layers() * 2 * layers_[0].kv_heads * part_bytes(); }

template <class Visit>
void KvPool::each_part(int64_t block, const Visit& visit) const {
  for (const KvLayer& layer : layers_) {
    for (uint8_t* data : {layer.k, layer.v}) {
      for (int64_t head = 0; head < layer.kv_heads; ++head) visit(data + layer.at(block, head));
    }
  }
}

void KvPool::read(int64_t block, uint8_t* to) const {
  each_part(block, [&](const uint8_t* part) { to = std::copy_n(part, part_bytes(), to); });
}

void KvPool::write(int64_t block, const uint8_t* from) const {
  each_part(block, [&](uint8_t* part) {
    std::copy_n(from, part_bytes(), part);
    from += part_bytes();
  });
}

// Both lie in the same place of their group but for the distance between the two.
void KvPool::copy(int64_t source, int64_t destination) const {
  if (source == destination) return;
  const int64_t distance = layers_[0].at(destination, 0) - layers_[0].at(source, 0);
  each_part(source, [&](uint8_t* part) { std::copy_n(part, part_bytes(), part + distance); });
}

}  // namespace legato
