#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <utility>

namespace legato {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kArenaRegion = size_t{64} << 20;

constexpr size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

Region::Region(size_t bytes, Pages pages) {
  if (bytes == 0) return;
  const size_t alignment = pages == Pages::Huge ? kHugePage : 0;
  mapped_ = round_up(bytes, 4096) + alignment;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
  flags |= MAP_NORESERVE;
#endif
  void* mapping = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mapping_ = mapping;
  const size_t address = reinterpret_cast<size_t>(mapping);
  data_ = static_cast<uint8_t*>(mapping) + (alignment ? round_up(address, alignment) - address : 0);
  size_ = bytes;
#ifdef MADV_HUGEPAGE  // advice only: a refusal costs speed, not correctness
  (void)madvise(data_, round_up(bytes, 4096), pages == Pages::Huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
}

void Region::populate(size_t begin, size_t end) const {
#ifdef MADV_POPULATE_WRITE
  begin = begin / 4096 * 4096;
  if (end = std::min(end, size_); begin < end)
    (void)madvise(data_ + begin, round_up(end - begin, 4096), MADV_POPULATE_WRITE);
#else
  (void)begin, (void)end;
#endif
}

Region::Region(Region&& other) noexcept { *this = std::move(other); }

Region& Region::operator=(Region&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

Region::~Region() {
  if (mapping_) munmap(mapping_, mapped_);
}

void GrowingRegion::want(size_t used, size_t ahead) {
  if (used_.load(std::memory_order_relaxed) < used || wanted_.load(std::memory_order_relaxed) == 0) {
    used_.store(used, std::memory_order_relaxed);
    wanted_.store(std::min(used + ahead, size()), std::memory_order_relaxed);
  }
}

bool GrowingRegion::grow() {
  resident_ = std::max(resident_, used_.load(std::memory_order_relaxed) / kHugePage * kHugePage);
  if (resident_ >= wanted_.load(std::memory_order_relaxed)) return false;
  populate(resident_, resident_ + kHugePage);
  resident_ += kHugePage;
  return true;
}

uint8_t* Arena::take(size_t bytes) {
  bytes = round_up(std::max<size_t>(bytes, 1), 64);
  if (regions_.empty() || used_ + bytes > regions_.back().size()) {
    regions_.emplace_back(std::max(bytes, kArenaRegion), Pages::Huge);
    used_ = 0;
  }
  uint8_t* piece = regions_.back().data() + used_;
  used_ += bytes;
  return piece;
}

}  // namespace legato
