// Control and user-defined tokens: their names are found in a text before the rest of it is cut into tokens.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "pieces.h"

namespace legato {

// Values of GGUF's tokenizer.ggml.token_type.
enum class TokenType : uint8_t { kUndefined, kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

// A token whose name stands in a text: from byte `at` on, and from character `start` to `end`.
struct Named {
  int32_t id;
  size_t at;
  int64_t start, end;
};

class Names {
 public:
  // `types` of each piece. Throws std::invalid_argument if there are not as many.
  Names(std::shared_ptr<const Pieces> pieces, std::span<const uint8_t> types);

  // Of names that begin at the same place the longest, and none within another. Those of control tokens are text,
  // but for `parse_special`; those of user-defined tokens never are.
  std::vector<Named> find(std::string_view text, bool parse_special) const;

  TokenType type(int32_t id) const { return types_[static_cast<size_t>(id)]; }
  bool is_control(int32_t id) const { return type(id) == TokenType::kControl || type(id) == TokenType::kUnknown; }
  bool is_name(int32_t id) const { return is_control(id) || type(id) == TokenType::kUserDefined; }

 private:
  // The longest name that begins at `at`; -1 if none does.
  int32_t name_at(std::string_view text, size_t at) const;

  std::shared_ptr<const Pieces> pieces_;
  std::vector<TokenType> types_;
  std::vector<int32_t> names_;  // ids, in the order of their spelling
  std::array<bool, 256> begins_name_{};
};

}  // namespace legato
