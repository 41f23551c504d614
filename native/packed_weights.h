// Packed matrices that an earlier start wrote to a file. What the file means is Python's: weights/packed_file.py.
#pragma once
#include <cstdint>
#include <string>

#include "memory.h"

namespace legato {

// A part of a file in memory of its own. Not mapped: the page cache has small pages, which slow the kernels down, and
// a mapping dies when somebody cuts the file.
class PackedWeights {
 public:
  // Throws std::runtime_error when the file cannot be read, or ends before `offset + bytes`.
  PackedWeights(const std::string& path, int64_t offset, int64_t bytes, int threads);
  const uint8_t* data() const { return memory_.data(); }
  int64_t size() const { return static_cast<int64_t>(memory_.size()); }

 private:
  Region memory_;
};

// Of bytes that chance may have changed, not an adversary: any change within one 64-bit word shows.
uint64_t checksum(const uint8_t* data, size_t bytes);

}  // namespace legato
