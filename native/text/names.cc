#include "names.h"

#include <algorithm>
#include <stdexcept>

namespace legato {
namespace {

int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; });
}

}  // namespace

Names::Names(std::shared_ptr<const Pieces> pieces, std::span<const uint8_t> types) : pieces_(std::move(pieces)) {
  if (types.size() != static_cast<size_t>(pieces_->size())) throw std::invalid_argument("types: not one a piece");
  types_.reserve(types.size());
  for (const uint8_t type : types) types_.push_back(static_cast<TokenType>(type));
  for (int32_t id = 0; id < pieces_->size(); ++id) {
    if (is_name(id)) names_.push_back(id);
  }
  std::sort(names_.begin(), names_.end(), [&](int32_t a, int32_t b) { return (*pieces_)[a] < (*pieces_)[b]; });
  for (const int32_t id : names_) begins_name_[static_cast<uint8_t>((*pieces_)[id][0])] = true;
}

std::vector<Named> Names::find(std::string_view text, bool parse_special) const {
  std::vector<Named> found;
  size_t counted = 0;  // bytes, and the characters that they are
  int64_t character = 0;
  for (size_t at = 0; at < text.size();) {
    const int32_t id = name_at(text, at);
    if (id < 0) {
      ++at;
      continue;
    }
    const std::string_view name = (*pieces_)[id];
    if (parse_special || !is_control(id)) {
      const int64_t start = character + characters(text.substr(counted, at - counted));
      character = start + characters(name);
      counted = at + name.size();
      found.push_back({id, at, start, character});
    }
    at += name.size();
  }
  return found;
}

int32_t Names::name_at(std::string_view text, size_t at) const {
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

}  // namespace legato
