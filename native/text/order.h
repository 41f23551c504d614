// The order of strings by their bytes, for whoever searches among them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace legato {

// String i is data[ends[i - 1]..ends[i]). The indices of those that are not empty, but for `left_out`, sorted; of equal
// strings the first comes first. Throws std::invalid_argument naming what lies outside.
std::vector<int32_t> order_of(std::span<const uint8_t> data, std::span<const int32_t> ends,
                              std::span<const int32_t> left_out);

}  // namespace legato
