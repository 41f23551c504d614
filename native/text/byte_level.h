// A byte-level BPE vocabulary as GGUF files have it: words to token ids, and what each token spells.
//
// A token's piece writes each byte as one letter, a space as U+0120 (GPT-2, Radford et al., 2019). A list of merges
// says which neighbours are joined, the best first.
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

class ByteLevel {
 public:
  // `types` of each piece; `merges`: two pieces with a space between them. With `whole_words` a word that is a token
  // is that token, whatever the merges say. Neither gives a control token. Throws std::invalid_argument naming what
  // does not fit.
  ByteLevel(std::shared_ptr<const Pieces> pieces, std::span<const uint8_t> types, const Strings& merges,
            bool whole_words);

  const Names& names() const { return names_; }

  // `text` is UTF-8, without names; its words follow each other, and `ends` says where each of them does, in
  // characters. Bytes that the vocabulary has no token for are left out. Throws std::invalid_argument if words end
  // elsewhere than the text.
  std::vector<int32_t> encode(std::string_view text, std::span<const uint32_t> ends) const;

  // The bytes that a token stands for; one whose piece has other letters stands for the piece itself.
  std::string spell(int32_t id) const;

 private:
  struct Merge {
    int32_t left, right, id;
  };

  void add_merge(const Strings& merges, size_t rank);
  Joined join(int32_t left, int32_t right) const;
  // Where the table has the merge, or an empty place for it.
  size_t place_of(int32_t left, int32_t right) const;
  // The token that the word is as a whole; -1 if there is none.
  int32_t whole(std::string_view word, std::string& spelled) const;

  std::shared_ptr<const Pieces> pieces_;
  Names names_;
  std::vector<Merge> merges_;    // the best first
  std::vector<uint32_t> table_;  // open addressing, at most half full: rank + 1; 0 is an empty place
  std::array<int32_t, 256> byte_ids_{};
  bool whole_words_;
};

}  // namespace legato
