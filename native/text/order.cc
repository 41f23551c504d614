#include "order.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <string_view>

namespace legato {
namespace {

// The first eight bytes as a number that is greater if they come later; most comparisons need no more.
uint64_t prefix_of(std::string_view text) {
  uint64_t prefix = 0;
  for (size_t i = 0; i < 8; ++i) prefix = prefix << 8 | (i < text.size() ? static_cast<uint8_t>(text[i]) : 0u);
  return prefix;
}

struct Key {
  uint64_t prefix;
  int32_t index;
};

}  // namespace

std::vector<int32_t> order_of(std::span<const uint8_t> data, std::span<const int32_t> ends,
                              std::span<const int32_t> left_out) {
  const int32_t count = static_cast<int32_t>(ends.size());
  std::vector<bool> out(ends.size());
  for (const int32_t index : left_out) {
    if (index < 0 || index >= count) throw std::invalid_argument("left_out: no string " + std::to_string(index));
    out[static_cast<size_t>(index)] = true;
  }
  const auto text = [&](int32_t index) {
    const size_t start = index > 0 ? static_cast<size_t>(ends[static_cast<size_t>(index) - 1]) : 0;
    const size_t end = static_cast<size_t>(ends[static_cast<size_t>(index)]);
    return std::string_view(reinterpret_cast<const char*>(data.data()) + start, end - start);
  };
  std::vector<Key> keys;
  int32_t before = 0;
  for (int32_t index = 0; index < count; ++index) {
    const int32_t end = ends[static_cast<size_t>(index)];
    if (end < before || static_cast<size_t>(end) > data.size())
      throw std::invalid_argument("ends: string " + std::to_string(index) + " lies outside of the data");
    if (end > before && !out[static_cast<size_t>(index)]) keys.push_back({prefix_of(text(index)), index});
    before = end;
  }
  std::sort(keys.begin(), keys.end(), [&](const Key& a, const Key& b) {
    if (a.prefix != b.prefix) return a.prefix < b.prefix;
    const int order = text(a.index).compare(text(b.index));
    return order != 0 ? order < 0 : a.index < b.index;
  });
  std::vector<int32_t> sorted;
  sorted.reserve(keys.size());
  for (const Key& key : keys) sorted.push_back(key.index);
  return sorted;
}

}  // namespace legato
