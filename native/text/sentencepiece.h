// A SentencePiece vocabulary as GGUF files have it: text to token ids, and what each token spells.
//
// Neighbours are joined, whichever make the token of the highest score (the left one first), until no two make
// one: BPE as SentencePiece does it (Kudo and Richardson, 2018, https://arxiv.org/abs/1808.06226). A token may be
// joined in one way only, which the scores of its own parts decide, so no list of merges is needed.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "joining.h"
#include "names.h"
#include "pieces.h"

namespace legato {

struct Encoded {
  std::vector<int32_t> ids;
  std::vector<Named> named;  // control tokens
};

class SentencePiece {
 public:
  // `types` and `scores` of each piece; `unknown` is the id that stands for what has no other, or -1. Throws
  // std::invalid_argument naming what does not fit.
  SentencePiece(std::shared_ptr<const Pieces> pieces, std::span<const uint8_t> types, std::span<const float> scores,
                int32_t unknown);

  // `text` is UTF-8. Names of control tokens are such tokens only with `parse_special`, those of user-defined
  // tokens always. `prefix` puts a space before each stretch of text between names.
  Encoded encode(std::string_view text, bool parse_special, bool prefix) const;

  // The bytes that a token stands for.
  std::string spell(int32_t id) const;

 private:
  class Cutting;

  int32_t rank(int32_t id) const { return ranks_[static_cast<size_t>(id)]; }
  void encode_stretch(std::string_view text, bool prefix, Cutting& cutting) const;

  std::shared_ptr<const Pieces> pieces_;
  Names names_;
  std::vector<int32_t> ranks_;  // the best token is 0; -1: nothing is joined to it
  std::array<int32_t, 256> byte_ids_{};
  int32_t unknown_;
  uint32_t longest_ = 0;         // bytes of a token that something is joined to
  bool words_are_apart_ = true;  // no such token goes on with a space behind something else
};

}  // namespace legato
