#include "pieces.h"

#include <bit>
#include <cstring>
#include <stdexcept>

namespace legato {
namespace {

constexpr uint64_t kMost = uint64_t{1} << 30;  // pieces, and bytes of all of them

uint64_t hash_of(std::string_view text) {
  constexpr uint64_t kFactor = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio
  uint64_t hash = text.size() * kFactor;
  const char* at = text.data();
  for (size_t left = text.size(); left > 0;) {
    uint64_t word = 0;
    const size_t count = left < 8 ? left : 8;
    std::memcpy(&word, at, count);
    hash = (hash ^ word) * kFactor;
    hash ^= hash >> 32;
    at += count, left -= count;
  }
  return hash * kFactor;
}

// As RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const auto byte = [&](size_t offset) { return static_cast<uint8_t>(text[at + offset]); };
    const uint8_t first = byte(0);
    const int length = character_length(first);
    if (length == 0 || at + static_cast<size_t>(length) > text.size()) return false;
    for (int i = 1; i < length; ++i) {
      if ((byte(static_cast<size_t>(i)) & 0xc0) != 0x80) return false;
    }
    const uint8_t second = length > 1 ? byte(1) : 0;
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f)) return false;
    if ((first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) return false;
    at += static_cast<size_t>(length);
  }
  return true;
}

[[noreturn]] void fail(size_t id, const std::string& problem) {
  throw std::invalid_argument("string " + std::to_string(id) + " " + problem);
}

}  // namespace

Places find_strings(std::span<const uint8_t> data, uint64_t position, size_t count) {
  constexpr uint64_t kLength = sizeof(uint64_t);
  Places places;
  for (size_t id = 0; id < count; ++id) {
    if (position > data.size() || data.size() - position < kLength) fail(id, "passes the file's end");
    uint64_t length;
    std::memcpy(&length, data.data() + position, kLength);
    position += kLength;
    if (length > data.size() - position) fail(id, "passes the file's end");
    places.starts.push_back(position);
    position += length;
    places.ends.push_back(position);
  }
  return places;
}

int character_length(uint8_t first) {
  if (first < 0x80) return 1;
  if (first < 0xc2) return 0;
  if (first < 0xe0) return 2;
  if (first < 0xf0) return 3;
  return first < 0xf5 ? 4 : 0;
}

void Strings::check() const {
  if (ends.size() != size()) throw std::invalid_argument("starts and ends differ in length");
  if (size() > kMost) throw std::invalid_argument("more than 2^30 strings");
}

std::string_view Strings::operator[](size_t index) const {
  const uint64_t start = starts[index], end = ends[index];
  if (start > end || end > data.size()) fail(index, "lies outside of the file");
  return {reinterpret_cast<const char*>(data.data()) + start, end - start};
}

Pieces::Pieces(const Strings& strings) {
  strings.check();
  const size_t count = strings.size();
  uint64_t bytes = 0;
  for (size_t id = 0; id < count; ++id) {
    bytes += strings[id].size();
    if (bytes > kMost) throw std::invalid_argument("strings of more than 2^30 bytes");
  }
  text_.reserve(bytes);
  ends_.reserve(count);
  table_.resize(std::bit_ceil(2 * count + 1));
  id_mask_ = static_cast<uint32_t>((uint64_t{1} << std::bit_width(count)) - 1);
  for (size_t id = 0; id < count; ++id) {
    const std::string_view piece = strings[id];
    if (!is_utf8(piece)) fail(id, "is not UTF-8");
    if (piece.empty()) {
      text_ += "[EMPTY_" + std::to_string(id) + "]";
    } else {
      text_ += piece;
    }
    ends_.push_back(static_cast<uint32_t>(text_.size()));
    insert(static_cast<int32_t>(id));
  }
}

std::string_view Pieces::operator[](int32_t id) const {
  const size_t index = static_cast<size_t>(id);
  const uint32_t start = id > 0 ? ends_[index - 1] : 0;
  return std::string_view(text_).substr(start, ends_[index] - start);
}

int32_t Pieces::find(std::string_view piece) const {
  const uint64_t hash = hash_of(piece);
  return static_cast<int32_t>(table_[place_of(piece, hash)] & id_mask_) - 1;
}

size_t Pieces::place_of(std::string_view piece, uint64_t hash) const {
  const uint32_t tag = static_cast<uint32_t>(hash) & ~id_mask_;
  for (size_t place = hash >> 32;; ++place) {
    const uint32_t found = table_[place &= table_.size() - 1];
    if (found == 0) return place;
    if ((found & ~id_mask_) == tag && (*this)[static_cast<int32_t>(found & id_mask_) - 1] == piece) return place;
  }
}

void Pieces::insert(int32_t id) {
  const std::string_view piece = (*this)[id];
  const uint64_t hash = hash_of(piece);
  uint32_t& slot = table_[place_of(piece, hash)];
  if (slot != 0) fail(static_cast<size_t>(id), "occurs twice: '" + std::string(piece) + "'");
  slot = (static_cast<uint32_t>(hash) & ~id_mask_) | static_cast<uint32_t>(id + 1);
}

}  // namespace legato
