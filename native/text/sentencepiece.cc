#include "sentencepiece.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

namespace legato {
namespace {

constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581 stands for a space
constexpr size_t kMostText = size_t{1} << 30;        // bytes

int hexadecimal(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

// The byte that <0x0A> stands for; -1 of any other piece.
int byte_of(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  const int high = hexadecimal(piece[3]), low = hexadecimal(piece[4]);
  return high < 0 || low < 0 ? -1 : 16 * high + low;
}

bool has_space_behind_other(std::string_view piece) {
  size_t at = 0;
  while (piece.substr(at).starts_with(kSpace)) at += kSpace.size();
  return piece.find(kSpace, at) != std::string_view::npos;
}

}  // namespace

// Words into ids, one after the other.
class SentencePiece::Cutting {
 public:
  Cutting(const SentencePiece& vocabulary, std::vector<int32_t>& ids) : vocabulary_(vocabulary), ids_(ids) {}

  void word(std::string_view text) {
    joining_.begin();
    for (size_t at = 0; at < text.size();) {
      const size_t length = static_cast<size_t>(character_length(static_cast<uint8_t>(text[at])));
      const int32_t id = vocabulary_.pieces_->find(text.substr(at, length));
      const bool is_text = id >= 0 && !vocabulary_.names_.is_control(id);
      joining_.add(static_cast<uint32_t>(at), static_cast<uint32_t>(length), is_text ? id : -1);
      at += length;
    }
    joining_.finish(
        [&](const Part& left, const Part& right) -> Joined {
          const uint32_t length = left.length + right.length;
          if (length > vocabulary_.longest_) return {};
          const int32_t id = vocabulary_.pieces_->find(text.substr(left.start, length));
          if (id < 0 || vocabulary_.rank(id) < 0) return {};
          return {vocabulary_.rank(id), id};
        },
        [&](const Part& part) { append(part.id, text.substr(part.start, part.length)); });
  }

  void begin_stretch() { ends_unknown_ = false; }

 private:
  // What is no token is its bytes; where the vocabulary has no bytes, all of it in a row is one unknown token.
  void append(int32_t id, std::string_view bytes) {
    const bool was_unknown = ends_unknown_;
    ends_unknown_ = false;
    if (id >= 0) {
      ids_.push_back(id);
      return;
    }
    const auto id_of = [&](char byte) { return vocabulary_.byte_ids_[static_cast<uint8_t>(byte)]; };
    if (std::all_of(bytes.begin(), bytes.end(), [&](char byte) { return id_of(byte) >= 0; })) {
      for (const char byte : bytes) ids_.push_back(id_of(byte));
    } else if (vocabulary_.unknown_ >= 0) {
      if (!was_unknown) ids_.push_back(vocabulary_.unknown_);
      ends_unknown_ = true;
    }
  }

  const SentencePiece& vocabulary_;
  std::vector<int32_t>& ids_;
  Joining joining_;
  bool ends_unknown_ = false;
};

SentencePiece::SentencePiece(std::shared_ptr<const Pieces> pieces, std::span<const uint8_t> types,
                             std::span<const float> scores, int32_t unknown)
    : pieces_(std::move(pieces)), names_(pieces_, types), unknown_(unknown) {
  const size_t count = static_cast<size_t>(pieces_->size());
  if (scores.size() != count) throw std::invalid_argument("scores: not one a piece");
  if (unknown < -1 || unknown >= pieces_->size()) throw std::invalid_argument("unknown: no id of the vocabulary");
  std::vector<int32_t> order;
  for (int32_t id = 0; id < pieces_->size(); ++id) {
    if (std::isnan(scores[static_cast<size_t>(id)])) throw std::invalid_argument("scores: not a number");
    if (names_.type(id) != TokenType::kNormal) continue;
    order.push_back(id);
    const std::string_view piece = (*pieces_)[id];
    longest_ = std::max(longest_, static_cast<uint32_t>(piece.size()));
    words_are_apart_ = words_are_apart_ && !has_space_behind_other(piece);
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  ranks_.assign(count, -1);
  for (size_t rank = 0; rank < order.size(); ++rank)
    ranks_[static_cast<size_t>(order[rank])] = static_cast<int32_t>(rank);
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(byte));
    byte_ids_[byte] = pieces_->find(name);
  }
}

Encoded SentencePiece::encode(std::string_view text, bool parse_special, bool prefix) const {
  if (text.size() > kMostText) throw std::invalid_argument("text: more than 2^30 bytes");
  Encoded result;
  Cutting cutting(*this, result.ids);
  size_t begin = 0;
  for (const Named& name : names_.find(text, parse_special)) {
    encode_stretch(text.substr(begin, name.at - begin), prefix, cutting);
    result.ids.push_back(name.id);
    if (names_.is_control(name.id)) result.named.push_back(name);
    begin = name.at + (*pieces_)[name.id].size();
  }
  encode_stretch(text.substr(begin), prefix, cutting);
  return result;
}

void SentencePiece::encode_stretch(std::string_view text, bool prefix, Cutting& cutting) const {
  if (text.empty()) return;
  std::string spelled(prefix ? kSpace : "");
  for (const char byte : text) {
    if (byte == ' ') {
      spelled += kSpace;
    } else {
      spelled += byte;
    }
  }
  cutting.begin_stretch();
  const std::string_view whole = spelled;
  for (size_t begin = 0; begin < whole.size();) {
    size_t end = whole.size();
    if (words_are_apart_) {  // nothing is joined over the beginning of a word: each is taken alone
      end = begin;
      while (whole.substr(end).starts_with(kSpace)) end += kSpace.size();
      end = std::min(whole.find(kSpace, end), whole.size());
    }
    cutting.word(whole.substr(begin, end - begin));
    begin = end;
  }
}

std::string SentencePiece::spell(int32_t id) const {
  const std::string_view piece = (*pieces_)[id];
  if (names_.is_name(id)) return std::string(piece);
  if (const int byte = byte_of(piece); byte >= 0) return std::string(1, static_cast<char>(byte));
  std::string bytes;
  for (size_t at = 0; at < piece.size();) {
    const bool is_space = piece.substr(at).starts_with(kSpace);
    bytes += is_space ? ' ' : piece[at];
    at += is_space ? kSpace.size() : 1;
  }
  return bytes;
}

}  // namespace legato
