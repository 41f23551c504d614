// The paged cache's memory: all layers of a group of blocks are one piece, so few pages are touched, and few are
// touched at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "include/kernels.h"
#include "memory.h"

namespace legato {

class KvPool {
 public:
  KvPool() = default;  // without layers
  KvPool(int layers, int64_t blocks, KvType type, int kv_heads, int head_dim);

  int num_layers() const { return static_cast<int>(layers_.size()); }
  int64_t num_blocks() const { return layers_.empty() ? 0 : layers_[0].blocks; }
  const KvLayer& operator[](int layer) const { return layers_[layer]; }
  const std::shared_ptr<GrowingRegion>& memory() const { return memory_; }  // null without layers
  int64_t bytes_reserved() const { return memory_ ? static_cast<int64_t>(memory_->size()) : 0; }

  // Blocks 0 to `block` are used now: they, and 16 MB behind them, shall be resident.
  void want(int64_t block);

  // A block of all layers, as others keep it: [layers][K, V][kv_heads] parts of a head. Blocks are in range.
  int64_t block_bytes() const;
  void read(int64_t block, uint8_t* to) const;
  void write(int64_t block, const uint8_t* from) const;
  void copy(int64_t source, int64_t destination) const;

 private:
  template <class Visit>
  void each_part(int64_t block, const Visit& visit) const;
  int64_t part_bytes() const { return kv_head_bytes(layers_[0].type, layers_[0].head_dim); }

  std::shared_ptr<GrowingRegion> memory_;
  std::vector<KvLayer> layers_;
};

}  // namespace legato
