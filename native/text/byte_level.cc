#include "byte_level.h"

#include <bit>
#include <stdexcept>

namespace legato {
namespace {

constexpr size_t kMostText = size_t{1} << 30;  // bytes
constexpr size_t kMostMerges = size_t{1} << 30;
constexpr uint32_t kOthers = 0x100;  // the letters of bytes that are no printable Latin-1 begin here

// The letter of each byte, which is one or two bytes of UTF-8, and the byte of each letter.
struct Alphabet {
  std::array<std::string, 256> letters;
  std::array<int, 2 * kOthers> bytes;

  Alphabet() {
    bytes.fill(-1);
    uint32_t other = kOthers;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
      const uint32_t letter = printable ? byte : other++;
      bytes[letter] = static_cast<int>(byte);
      if (letter < 0x80) {
        letters[byte] = static_cast<char>(letter);
      } else {
        letters[byte] = {static_cast<char>(0xc0 | letter >> 6), static_cast<char>(0x80 | (letter & 0x3f))};
      }
    }
  }

  // The byte whose letter `text` begins with; -1 if it is none.
  int byte_at(std::string_view text) const {
    const uint8_t first = static_cast<uint8_t>(text[0]);
    if (first < 0x80) return bytes[first];
    if (character_length(first) != 2) return -1;
    const uint32_t letter = (first & 0x1fu) << 6 | (static_cast<uint8_t>(text[1]) & 0x3fu);
    return letter < bytes.size() ? bytes[letter] : -1;
  }
};

const Alphabet& alphabet() {
  static const Alphabet made;
  return made;
}

[[noreturn]] void fail(size_t merge, const std::string& problem) {
  throw std::invalid_argument("merge " + std::to_string(merge) + ": " + problem);
}

}  // namespace

ByteLevel::ByteLevel(std::shared_ptr<const Pieces> pieces, std::span<const uint8_t> types, const Strings& merges,
                     bool whole_words)
    : pieces_(std::move(pieces)), names_(pieces_, types), whole_words_(whole_words) {
  merges.check();
  if (merges.size() > kMostMerges) throw std::invalid_argument("more than 2^30 merges");
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) byte_ids_[byte] = pieces_->find(alphabet().letters[byte]);
  table_.resize(std::bit_ceil(2 * merges.size() + 1));
  merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) add_merge(merges, rank);
}

void ByteLevel::add_merge(const Strings& merges, size_t rank) {
  const std::string_view line = merges[rank];
  const size_t space = line.find(' ', 1);  // the first character may be a space itself
  if (space == line.npos) fail(rank, "'" + std::string(line) + "' is not two tokens with a space between them");
  const auto id_of = [&](std::string_view piece) {
    const int32_t id = pieces_->find(piece);
    if (id < 0) fail(rank, "'" + std::string(piece) + "' is no token");
    return id;
  };
  const std::string_view left = line.substr(0, space), right = line.substr(space + 1);
  const Merge merge{id_of(left), id_of(right), id_of(std::string(left) += right)};
  merges_.push_back(merge);
  if (names_.is_control(merge.id)) return;                                      // no text becomes a control token
  table_[place_of(merge.left, merge.right)] = static_cast<uint32_t>(rank + 1);  // of two that are the same the last
}

size_t ByteLevel::place_of(int32_t left, int32_t right) const {
  constexpr uint64_t kFactor = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio
  const uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  for (size_t place = (key * kFactor ^ key >> 29) * kFactor >> 32;; ++place) {
    place &= table_.size() - 1;
    const uint32_t found = table_[place];
    if (found == 0) return place;
    const Merge& merge = merges_[found - 1];
    if (merge.left == left && merge.right == right) return place;
  }
}

Joined ByteLevel::join(int32_t left, int32_t right) const {
  const uint32_t found = table_[place_of(left, right)];
  if (found == 0) return {};
  return {static_cast<int32_t>(found - 1), merges_[found - 1].id};
}

int32_t ByteLevel::whole(std::string_view word, std::string& spelled) const {
  spelled.clear();
  for (const char byte : word) spelled += alphabet().letters[static_cast<uint8_t>(byte)];
  const int32_t id = pieces_->find(spelled);
  return id >= 0 && names_.is_control(id) ? -1 : id;
}

std::vector<int32_t> ByteLevel::encode(std::string_view text, std::span<const uint32_t> ends) const {
  if (text.size() > kMostText) throw std::invalid_argument("text: more than 2^30 bytes");
  std::vector<int32_t> ids;
  std::string spelled;
  Joining joining;
  size_t at = 0;
  uint32_t character = 0;
  for (const uint32_t end : ends) {
    const size_t begin = at;
    for (; character < end && at < text.size(); ++character)
      at += static_cast<size_t>(character_length(static_cast<uint8_t>(text[at])));
    const std::string_view word = text.substr(begin, at - begin);
    if (const int32_t id = whole_words_ ? whole(word, spelled) : -1; id >= 0) {
      ids.push_back(id);
      continue;
    }
    joining.begin();
    for (const char byte : word) {
      if (const int32_t id = byte_ids_[static_cast<uint8_t>(byte)]; id >= 0) joining.add(0, 1, id);
    }
    joining.finish([&](const Part& left, const Part& right) { return join(left.id, right.id); },
                   [&](const Part& part) { ids.push_back(part.id); });
  }
  if (at != text.size()) throw std::invalid_argument("ends: the last word does not end where the text does");
  return ids;
}

std::string ByteLevel::spell(int32_t id) const {
  const std::string_view piece = (*pieces_)[id];
  if (names_.is_name(id)) return std::string(piece);
  std::string bytes;
  for (size_t at = 0; at < piece.size();) {
    const int byte = alphabet().byte_at(piece.substr(at));
    if (byte < 0) return std::string(piece);
    bytes += static_cast<char>(byte);
    at += static_cast<size_t>(character_length(static_cast<uint8_t>(piece[at])));
  }
  return bytes;
}

}  // namespace legato
