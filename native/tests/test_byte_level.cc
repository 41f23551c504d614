// Byte-level vocabularies against the definition, taken literally: of all neighbours that a merge names, the pair of
// the best merge, the left one first, until there is none.
#include <algorithm>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../text/byte_level.h"
#include "expect.h"
#include "strings.h"

using namespace legato;

namespace {

struct Vocabulary {
  std::vector<std::string> tokens;  // of letters that stand for themselves
  std::vector<std::pair<std::string, std::string>> merges;

  int32_t find(const std::string& piece) const {
    const auto found = std::find(tokens.begin(), tokens.end(), piece);
    return found == tokens.end() ? -1 : static_cast<int32_t>(found - tokens.begin());
  }
  std::vector<std::string> lines() const {
    std::vector<std::string> lines;
    for (const auto& [left, right] : merges) lines.push_back(left + " " + right);
    return lines;
  }
};

Vocabulary random_vocabulary(std::mt19937& draw, const std::string& letters) {
  Vocabulary made;
  for (const char letter : letters) made.tokens.emplace_back(1, letter);
  const auto any = [&] { return made.tokens[draw() % made.tokens.size()]; };
  while (made.merges.size() < 60) {
    const std::string left = any(), right = any();
    const bool known = made.find(left + right) >= 0;
    if (left.size() + right.size() > 8) continue;
    if (!known) made.tokens.push_back(left + right);
    made.merges.emplace_back(left, right);
  }
  std::shuffle(made.merges.begin(), made.merges.end(), draw);
  return made;
}

void by_definition(const Vocabulary& v, const std::string& word, bool whole_words, std::vector<int32_t>& ids) {
  if (whole_words && v.find(word) >= 0) {
    ids.push_back(v.find(word));
    return;
  }
  std::vector<std::string> parts;
  for (const char letter : word) {
    if (v.find({letter}) >= 0) parts.emplace_back(1, letter);
  }
  for (;;) {
    ptrdiff_t best = -1;
    size_t place = 0;
    for (size_t left = 0; left + 1 < parts.size(); ++left) {
      const auto pair = std::pair(parts[left], parts[left + 1]);
      const auto last = std::find(v.merges.rbegin(), v.merges.rend(), pair);  // of equal ones the last counts
      if (last == v.merges.rend()) continue;
      const ptrdiff_t rank = v.merges.rend() - last;
      if (best < 0 || rank < best) best = rank, place = left;
    }
    if (best < 0) break;
    parts[place] += parts[place + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(place) + 1);
  }
  for (const std::string& part : parts) ids.push_back(v.find(part));
}

void test_definition() {
  std::mt19937 draw(2);
  for (int round = 0; round < 60; ++round) {
    const Vocabulary made = random_vocabulary(draw, round % 2 ? "ab" : "abc.");
    const HeldStrings merges(made.lines());
    for (const bool whole_words : {false, true}) {
      const ByteLevel rules(pieces(made.tokens), std::vector<uint8_t>(made.tokens.size(), 1), merges.view(),
                            whole_words);
      for (int text = 0; text < 60; ++text) {
        std::string given;
        std::vector<uint32_t> ends;
        std::vector<int32_t> expected;
        for (size_t words = draw() % 4; words > 0; --words) {
          std::string word;
          for (size_t count = 1 + draw() % 12; count > 0; --count) word += "ababc.?"[draw() % 7];
          given += word;
          ends.push_back(static_cast<uint32_t>(given.size()));
          by_definition(made, word, whole_words, expected);
        }
        expect(rules.encode(given, ends) == expected, "ids of '" + given + "'");
      }
    }
  }
}

void test_bytes() {
  const std::string space = "\xc4\xa0", e = "\xc3\x83", acute = "\xc2\xa9";  // letters of 0x20, 0xc3, 0xa9
  const std::vector<std::string> tokens = {space, e, acute, e + acute, space + e, "<s>", "\xe6\x97\xa5"};
  const HeldStrings merges({e + " " + acute, space + " " + e});
  const ByteLevel rules(pieces(tokens), std::vector<uint8_t>{1, 1, 1, 1, 1, 3, 1}, merges.view(), false);
  expect(rules.encode(" \xc3\xa9\xe6\x97\xa5", std::vector<uint32_t>{1, 3}) == std::vector<int32_t>{0, 3},
         "words end at characters; bytes without a token are left out");
  expect(rules.spell(0) == " " && rules.spell(3) == "\xc3\xa9" && rules.spell(5) == "<s>", "bytes of letters");
  expect(rules.spell(6) == "\xe6\x97\xa5", "letters that stand for no byte");
  const std::vector<Named> named = rules.names().find("\xc3\xa9<s>", true);
  expect(named.size() == 1 && named[0].at == 2 && named[0].start == 1 && named[0].end == 4, "names");
}

void test_what_does_not_fit() {
  const auto refused = [](const std::vector<std::string>& merges) {
    const HeldStrings held(merges);
    try {
      ByteLevel(pieces({"a", "b", "ab"}), std::vector<uint8_t>{1, 1, 1}, held.view(), false);
      return false;
    } catch (const std::invalid_argument&) {
      return true;
    }
  };
  expect(!refused({"a b", "a b"}), "twice the same");
  for (const std::string line : {"", " ", "a", "ab", "a  b", "a ", "b a", "a q", "q b"}) expect(refused({line}), line);
}

}  // namespace

int main() {
  test_definition();
  test_bytes();
  test_what_does_not_fit();
  if (failures == 0) std::printf("byte level: as defined\n");
  return failures ? 1 : 0;
}
