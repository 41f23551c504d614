// Memory straight from the system: aligned, zero, and resident only where it was touched.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace legato {

enum class Pages { Small, Huge };  // Huge: 2 MiB pages where the system grants them

// One mapping, released with the object. Unreserved: its size may exceed free memory.
class Region {
 public:
  Region() = default;
  Region(size_t bytes, Pages pages);
  Region(Region&& other) noexcept;
  Region& operator=(Region&& other) noexcept;
  ~Region();
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  // Makes [begin, end) resident, as far as the system will: what is touched later is touched faster.
  void populate(size_t begin, size_t end) const;

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  void* mapping_ = nullptr;
  size_t mapped_ = 0;
};

// A region that is used from its beginning on: what follows is made resident, ahead of its use, by whoever has time.
class GrowingRegion : public Region {
 public:
  explicit GrowingRegion(size_t bytes) : Region(bytes, Pages::Huge) {}
  // So much is used now, or about to be, and so much shall be ready behind it.
  void want(size_t used, size_t ahead);
  // One large page more; false: all that is wanted is there. One caller at a time, beside one of want().
  bool grow();

 private:
  std::atomic<size_t> used_{0}, wanted_{0};
  size_t resident_ = 0;
};

// Packed weights: 64-byte aligned pieces of large regions, freed together.
class Arena {
 public:
  uint8_t* take(size_t bytes);

 private:
  std::vector<Region> regions_;
  size_t used_ = 0;  // of the last region
};

}  // namespace legato
