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

int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; });
}

bool has_space_behind_other(std::string_view piece) {
  size_t at = 0;
  while (piece.substr(at).starts_with(kSpace)) at += kSpace.size();
  return piece.find(kSpace, at) != std::string_view::npos;
}

}  // namespace

// One word after the other, with the memory of the last.
class SentencePiece::Joining {
 public:
  explicit Joining(const SentencePiece& vocabulary) : vocabulary_(vocabulary) {}

  void word(std::string_view text, std::vector<int32_t>& ids) {
    text_ = text;
    split();
    for (size_t left = 0; left + 1 < parts_.size(); ++left) offer(static_cast<int32_t>(left));
    while (!joins_.empty()) {
      const Join join = take();
      Part& left = parts_[join.left];
      if (left.length == 0 || left.next < 0) continue;
      Part& right = parts_[static_cast<size_t>(left.next)];
      if (left.length + right.length != join.length) continue;
      left.length = join.length;
      left.id = join.id;
      left.next = right.next;
      right.length = 0;
      if (left.next >= 0) parts_[static_cast<size_t>(left.next)].previous = static_cast<int32_t>(join.left);
      if (left.previous >= 0) offer(left.previous);
      offer(static_cast<int32_t>(join.left));
    }
    for (int32_t at = 0; at >= 0; at = parts_[static_cast<size_t>(at)].next)
      append(parts_[static_cast<size_t>(at)], ids);
  }

  void begin_stretch() { ends_unknown_ = false; }

 private:
  struct Part {
    uint32_t start, length;  // 0: joined to the one before it
    int32_t id;              // -1: no token
    int32_t previous, next;
  };
  struct Join {
    int32_t rank;
    uint32_t left, length;
    int32_t id;
    bool operator<(const Join& other) const {  // the greatest is taken first
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };

  void split() {
    parts_.clear();
    for (size_t at = 0; at < text_.size();) {
      const size_t length = static_cast<size_t>(character_length(static_cast<uint8_t>(text_[at])));
      int32_t id = vocabulary_.pieces_->find(text_.substr(at, length));
      if (id >= 0 && vocabulary_.is_control(id)) id = -1;
      const int32_t index = static_cast<int32_t>(parts_.size());
      parts_.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(length), id, index - 1, index + 1});
      at += length;
    }
    parts_.back().next = -1;
  }

  void offer(int32_t index) {
    const Part& left = parts_[static_cast<size_t>(index)];
    if (left.next < 0) return;
    const Part& right = parts_[static_cast<size_t>(left.next)];
    const uint32_t length = left.length + right.length;
    if (left.id < 0 || right.id < 0 || length > vocabulary_.longest_) return;
    const int32_t id = vocabulary_.pieces_->find(text_.substr(left.start, length));
    if (id < 0 || vocabulary_.rank(id) < 0) return;
    joins_.push_back({vocabulary_.rank(id), static_cast<uint32_t>(index), length, id});
    std::push_heap(joins_.begin(), joins_.end());
  }

  Join take() {
    std::pop_heap(joins_.begin(), joins_.end());
    const Join join = joins_.back();
    joins_.pop_back();
    return join;
  }

  // What is no token is its bytes; where the vocabulary has no bytes, all of it in a row is one unknown token.
  void append(const Part& part, std::vector<int32_t>& ids) {
    const bool was_unknown = ends_unknown_;
    ends_unknown_ = false;
    if (part.id >= 0) {
      ids.push_back(part.id);
      return;
    }
    const std::string_view bytes = text_.substr(part.start, part.length);
    const auto id_of = [&](char byte) { return vocabulary_.byte_ids_[static_cast<uint8_t>(byte)]; };
    if (std::all_of(bytes.begin(), bytes.end(), [&](char byte) { return id_of(byte) >= 0; })) {
      for (const char byte : bytes) ids.push_back(id_of(byte));
    } else if (vocabulary_.unknown_ >= 0) {
      if (!was_unknown) ids.push_back(vocabulary_.unknown_);
      ends_unknown_ = true;
    }
  }

  const SentencePiece& vocabulary_;
  std::string_view text_;
  std::vector<Part> parts_;
  std::vector<Join> joins_;  // a heap; what its parts have become meanwhile is looked at when it is taken
  bool ends_unknown_ = false;
};

SentencePiece::SentencePiece(std::shared_ptr<const Pieces> pieces, std::span<const uint8_t> types,
                             std::span<const float> scores, int32_t unknown)
    : pieces_(std::move(pieces)), unknown_(unknown) {
  const size_t count = static_cast<size_t>(pieces_->size());
  if (types.size() != count || scores.size() != count) throw std::invalid_argument("types or scores: not one a piece");
  if (unknown < -1 || unknown >= pieces_->size()) throw std::invalid_argument("unknown: no id of the vocabulary");
  types_.reserve(count);
  for (const uint8_t type : types) types_.push_back(static_cast<TokenType>(type));
  std::vector<int32_t> order;
  for (int32_t id = 0; id < pieces_->size(); ++id) {
    if (std::isnan(scores[static_cast<size_t>(id)])) throw std::invalid_argument("scores: not a number");
    if (is_name(id)) names_.push_back(id);
    if (type(id) != TokenType::kNormal) continue;
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
  std::sort(names_.begin(), names_.end(), [&](int32_t a, int32_t b) { return (*pieces_)[a] < (*pieces_)[b]; });
  for (const int32_t id : names_) begins_name_[static_cast<uint8_t>((*pieces_)[id][0])] = true;
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(byte));
    byte_ids_[byte] = pieces_->find(name);
  }
}

bool SentencePiece::is_control(int32_t id) const {
  return type(id) == TokenType::kControl || type(id) == TokenType::kUnknown;
}

Encoded SentencePiece::encode(std::string_view text, bool parse_special, bool prefix) const {
  if (text.size() > kMostText) throw std::invalid_argument("text: more than 2^30 bytes");
  Encoded result;
  Joining joining(*this);
  size_t begin = 0;  // of the stretch that no name has ended yet
  int64_t begin_character = 0;
  for (size_t at = 0; at < text.size();) {
    const int32_t id = name_at(text, at);
    if (id < 0) {
      ++at;
      continue;
    }
    const size_t length = (*pieces_)[id].size();
    if (parse_special || !is_control(id)) {
      const std::string_view stretch = text.substr(begin, at - begin);
      encode_stretch(stretch, prefix, joining, result.ids);
      const int64_t start = begin_character + characters(stretch);
      const int64_t end = start + characters((*pieces_)[id]);
      result.ids.push_back(id);
      if (is_control(id)) result.named.push_back({id, start, end});
      begin = at + length;
      begin_character = end;
    }
    at += length;
  }
  encode_stretch(text.substr(begin), prefix, joining, result.ids);
  return result;
}

int32_t SentencePiece::name_at(std::string_view text, size_t at) const {
  if (!begins_name_[static_cast<uint8_t>(text[at])]) return -1;
  int32_t found = -1;
  auto low = names_.begin(), high = names_.end();
  for (size_t depth = 0; low != high && at + depth < text.size(); ++depth) {
    // Behind `depth` equal bytes, one that ends there is the first, and was looked at.
    const auto byte = [&](int32_t id) {
      const std::string_view name = (*pieces_)[id];
      return depth < name.size() ? static_cast<uint8_t>(name[depth]) : -1;
    };
    const int wanted = static_cast<uint8_t>(text[at + depth]);
    low = std::lower_bound(low, high, wanted, [&](int32_t id, int value) { return byte(id) < value; });
    high = std::upper_bound(low, high, wanted, [&](int value, int32_t id) { return value < byte(id); });
    if (low != high && (*pieces_)[*low].size() == depth + 1) found = *low;
  }
  return found;
}

void SentencePiece::encode_stretch(std::string_view text, bool prefix, Joining& joining,
                                   std::vector<int32_t>& ids) const {
  if (text.empty()) return;
  std::string spelled(prefix ? kSpace : "");
  for (const char byte : text) {
    if (byte == ' ') {
      spelled += kSpace;
    } else {
      spelled += byte;
    }
  }
  joining.begin_stretch();
  const std::string_view whole = spelled;
  for (size_t begin = 0; begin < whole.size();) {
    size_t end = whole.size();
    if (words_are_apart_) {  // nothing is joined over the beginning of a word: each is taken alone
      end = begin;
      while (whole.substr(end).starts_with(kSpace)) end += kSpace.size();
      end = std::min(whole.find(kSpace, end), whole.size());
    }
    joining.word(whole.substr(begin, end - begin), ids);
    begin = end;
  }
}

std::string SentencePiece::spell(int32_t id) const {
  const std::string_view piece = (*pieces_)[id];
  if (is_name(id)) return std::string(piece);
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
