// SentencePiece vocabularies against the definition, taken literally: of all neighbours that make a token, the ones
// that make the best, the left one first, until there are none.
#include <algorithm>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../text/sentencepiece.h"
#include "expect.h"
#include "strings.h"

using namespace legato;

namespace {

const std::string kSpace = "\xe2\x96\x81";

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<uint8_t> types;
  std::vector<float> scores;

  int32_t find(const std::string& piece) const {
    const auto found = std::find(tokens.begin(), tokens.end(), piece);
    return found == tokens.end() ? -1 : static_cast<int32_t>(found - tokens.begin());
  }
};

// Id 0 is unknown, 1 a control token, 2 user-defined; the others are letters, and two tokens joined.
Vocabulary random_vocabulary(std::mt19937& draw, const std::vector<std::string>& letters) {
  Vocabulary made;
  made.tokens = {"<unk>", "<s>", "<x>"};
  made.tokens.insert(made.tokens.end(), letters.begin(), letters.end());
  const auto any = [&] { return made.tokens[3 + draw() % (made.tokens.size() - 3)]; };
  while (made.tokens.size() < 50) {
    const std::string token = any() + any();
    if (made.find(token) < 0) made.tokens.push_back(token);
  }
  made.types = {2, 3, 4};
  while (made.types.size() < made.tokens.size()) made.types.push_back(draw() % 5 ? 1 : 5);
  for (size_t id = 0; id < made.tokens.size(); ++id) made.scores.push_back(static_cast<float>(draw() % 20));
  return made;
}

// `text` without names.
std::vector<int32_t> by_definition(const Vocabulary& v, const std::string& text, bool prefix) {
  struct Part {
    std::string text;
    int32_t id;
  };
  std::vector<Part> parts;
  const std::string spelled = prefix && !text.empty() ? " " + text : text;
  for (size_t at = 0; at < spelled.size();) {
    const size_t length = static_cast<size_t>(character_length(static_cast<uint8_t>(spelled[at])));
    const std::string letter = spelled[at] == ' ' ? kSpace : spelled.substr(at, length);
    parts.push_back({letter, v.find(letter)});
    at += length;
  }
  for (;;) {
    int32_t best = -1;
    size_t place = 0;
    for (size_t left = 0; left + 1 < parts.size(); ++left) {
      if (parts[left].id < 0 || parts[left + 1].id < 0) continue;
      const int32_t id = v.find(parts[left].text + parts[left + 1].text);
      if (id < 0 || v.types[static_cast<size_t>(id)] != 1) continue;
      const auto score = [&](int32_t token) { return v.scores[static_cast<size_t>(token)]; };
      if (best < 0 || score(id) > score(best) || (score(id) == score(best) && id < best)) best = id, place = left;
    }
    if (best < 0) break;
    parts[place] = {parts[place].text + parts[place + 1].text, best};
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(place) + 1);
  }
  std::vector<int32_t> ids;
  bool was_unknown = false;
  for (const Part& part : parts) {
    if (part.id >= 0 || !was_unknown) ids.push_back(std::max(part.id, 0));
    was_unknown = part.id < 0;
  }
  return ids;
}

void test_definition() {
  std::mt19937 draw(1);
  const std::vector<std::vector<std::string>> alphabets = {
      {"a", "b"}, {"a", "\xc3\xa9", kSpace}, {kSpace, "a", "\xe6\x97\xa5", "\xf0\x9f\x98\x80"}};
  for (int round = 0; round < 60; ++round) {
    std::vector<std::string> letters = alphabets[static_cast<size_t>(round) % alphabets.size()];
    const Vocabulary made = random_vocabulary(draw, letters);
    const SentencePiece rules(pieces(made.tokens), made.types, made.scores, 0);
    letters.insert(letters.end(), {" ", " ", "q", "\xc3\x9f"});
    for (int text = 0; text < 60; ++text) {
      std::string given;
      for (size_t count = draw() % 30; count > 0; --count) given += letters[draw() % letters.size()];
      for (const bool prefix : {true, false}) {
        expect(rules.encode(given, true, prefix).ids == by_definition(made, given, prefix), "ids of '" + given + "'");
      }
    }
  }
}

void test_names() {
  const Vocabulary made{{"<unk>", "<s>", "<s>>", "a", "<x>"}, {2, 3, 3, 1, 4}, {0, 0, 0, 0, 0}};
  const SentencePiece rules(pieces(made.tokens), made.types, made.scores, 0);
  const Encoded encoded = rules.encode("a<s>\xc3\xa9<s>><x>a<s", true, false);
  expect(encoded.ids == std::vector<int32_t>{3, 1, 0, 2, 4, 3, 0}, "the longest name, and what is none");
  expect(encoded.named.size() == 2 && encoded.named[0].start == 1 && encoded.named[0].end == 4 &&
             encoded.named[1].id == 2 && encoded.named[1].start == 5 && encoded.named[1].end == 9,
         "places in characters");
  expect(rules.encode("a<s><x>", false, false).ids == std::vector<int32_t>{3, 0, 4}, "names that are text");
  expect(rules.encode("", true, true).ids.empty(), "no text");
}

void test_spelling() {
  const Vocabulary made{{"<unk>", "<0x0a>", kSpace + "a" + kSpace, "<0x0B>", kSpace, "<0xZZ>"}, {2, 6, 1, 3, 4, 6}, {}};
  const SentencePiece rules(pieces(made.tokens), made.types, std::vector<float>(6), -1);
  expect(rules.spell(1) == "\n" && rules.spell(2) == " a ", "bytes and spaces");
  expect(rules.spell(3) == "<0x0B>" && rules.spell(4) == kSpace && rules.spell(5) == "<0xZZ>", "names are literal");
}

void test_pieces() {
  std::vector<std::string> tokens;
  for (int number = 0; number < 100000; ++number) tokens.push_back(std::to_string(number * 7));
  const auto held = pieces(tokens);
  for (int32_t id = 0; id < held->size(); ++id) {
    expect(held->find(tokens[static_cast<size_t>(id)]) == id, "find " + tokens[static_cast<size_t>(id)]);
    expect(held->find(tokens[static_cast<size_t>(id)] + "x") == -1, "absent");
  }
  for (const std::string bad :
       {"\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf5\x80", "\xe2"}) {
    bool refused = false;
    try {
      pieces({"a", bad});
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    expect(refused, "not UTF-8");
  }
}

}  // namespace

int main() {
  test_definition();
  test_names();
  test_spelling();
  test_pieces();
  if (failures == 0) std::printf("sentencepiece: as defined\n");
  return failures ? 1 : 0;
}
