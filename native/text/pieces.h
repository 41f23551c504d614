// The strings of a vocabulary, found by id and by text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace legato {

class Pieces {
 public:
  // Piece `id` is data[starts[id]..ends[id]), which is copied; an empty one is called [EMPTY_id]. Throws
  // std::invalid_argument saying which piece is not UTF-8, lies outside of the data or occurs twice.
  Pieces(std::span<const uint8_t> data, std::span<const uint64_t> starts, std::span<const uint64_t> ends);

  int32_t size() const { return static_cast<int32_t>(ends_.size()); }
  std::string_view operator[](int32_t id) const;
  // The id of a piece; -1 if there is none.
  int32_t find(std::string_view piece) const;

 private:
  // Of the table: a tag of the hash above the id + 1 of the piece; 0 is an empty place.
  uint32_t slot(uint64_t hash, int32_t id) const;
  void insert(int32_t id);

  std::string text_;
  std::vector<uint32_t> ends_;
  std::vector<uint32_t> table_;  // open addressing, at most half full
  uint32_t id_mask_ = 0;
};

// Bytes of the character of UTF-8 whose first byte is given; 0 if no character begins so.
int character_length(uint8_t first);

}  // namespace legato
