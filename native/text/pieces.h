// The strings of a vocabulary, found by id and by text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace legato {

// Strings that lie in a file: each is data[starts[i]..ends[i]).
struct Strings {
  std::span<const uint8_t> data;
  std::span<const uint64_t> starts, ends;

  size_t size() const { return starts.size(); }
  // Both throw std::invalid_argument: the first if there are not as many ends as starts, the second if the
  // string lies outside of the data.
  void check() const;
  std::string_view operator[](size_t index) const;
};

class Pieces {
 public:
  // The strings are copied; an empty one is called [EMPTY_id]. Throws std::invalid_argument saying which one is not
  // UTF-8, lies outside of the data or occurs twice.
  explicit Pieces(const Strings& strings);

  int32_t size() const { return static_cast<int32_t>(ends_.size()); }
  std::string_view operator[](int32_t id) const;
  // The id of a piece; -1 if there is none.
  int32_t find(std::string_view piece) const;

 private:
  // Where the table has the piece, or an empty place for it.
  size_t place_of(std::string_view piece, uint64_t hash) const;
  void insert(int32_t id);

  std::string text_;
  std::vector<uint32_t> ends_;
  // Open addressing, at most half full: id + 1, above it a tag of the hash; 0 is an empty place.
  std::vector<uint32_t> table_;
  uint32_t id_mask_ = 0;
};

struct Places {
  std::vector<uint64_t> starts, ends;
};

// Where strings are that follow each other from `position` on, as GGUF files have them: each behind its length, 8
// bytes, little-endian. Throws std::invalid_argument if one passes the end of the data.
Places find_strings(std::span<const uint8_t> data, uint64_t position, size_t count);

// Bytes of the character of UTF-8 whose first byte is given; 0 if no character begins so.
int character_length(uint8_t first);

}  // namespace legato
