// Python's view of native/text: a module of its own, since the server needs nothing else of the native core.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "../text/byte_level.h"
#include "../text/order.h"
#include "../text/sentencepiece.h"
#include "buffer.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace legato {
namespace {

nb::str text(std::string_view piece) { return nb::str(piece.data(), piece.size()); }

void check_id(const Pieces& pieces, int64_t id) {
  if (id < 0 || id >= pieces.size()) throw nb::index_error("id: not of the vocabulary");
}

// Strings as Python gives them: a buffer, and two of uint64 with the places of each in it.
class HeldStrings {
 public:
  HeldStrings(nb::handle data, nb::handle starts, nb::handle ends)
      : data_("data", data), starts_("starts", starts), ends_("ends", ends) {}
  Strings view() const { return {data_.items<uint8_t>(), starts_.items<uint64_t>(), ends_.items<uint64_t>()}; }

 private:
  Bytes data_, starts_, ends_;
};

void construct_pieces(Pieces* self, nb::handle data, nb::handle starts, nb::handle ends) {
  new (self) Pieces(HeldStrings(data, starts, ends).view());
}

nb::bytes order(nb::handle data, nb::handle ends, const std::vector<int32_t>& left_out) {
  const Bytes held_data("data", data), held_ends("ends", ends);
  std::vector<int32_t> sorted;
  {
    nb::gil_scoped_release release;
    sorted = order_of(held_data.items<uint8_t>(), held_ends.items<int32_t>(), left_out);
  }
  return nb::bytes(sorted.data(), sorted.size() * sizeof(int32_t));
}

// A string of Python's as UTF-8. Not its own copy, which would stay as long as the string.
class Text {
 public:
  explicit Text(nb::str text) : utf8_(nb::steal(PyUnicode_AsUTF8String(text.ptr()))) {
    if (!utf8_.is_valid()) throw nb::python_error();
  }
  std::string_view view() const {
    return {PyBytes_AS_STRING(utf8_.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(utf8_.ptr()))};
  }

 private:
  nb::object utf8_;
};

nb::list list_of(const std::vector<int32_t>& ids) {
  nb::list list;
  for (const int32_t id : ids) list.append(id);
  return list;
}

nb::list list_of(const std::vector<Named>& names) {
  nb::list list;
  for (const Named& name : names) list.append(nb::make_tuple(name.id, name.start, name.end));
  return list;
}

nb::tuple places_of_strings(nb::handle data, uint64_t position, size_t count) {
  const Places places = find_strings(Bytes("data", data).items<uint8_t>(), position, count);
  const auto bytes = [](const std::vector<uint64_t>& v) { return nb::bytes(v.data(), v.size() * sizeof(uint64_t)); };
  return nb::make_tuple(bytes(places.starts), bytes(places.ends));
}

// What tokens spell, by the rules of either kind of vocabulary.
template <class Rules>
class Vocabulary {
 public:
  Vocabulary(std::shared_ptr<Pieces> pieces, Rules rules) : rules_(std::move(rules)), pieces_(std::move(pieces)) {}

  nb::bytes spell(int64_t id) const {
    check_id(*pieces_, id);
    const std::string spelled = rules_.spell(static_cast<int32_t>(id));
    return nb::bytes(spelled.data(), spelled.size());
  }

  nb::tuple spell_all(int32_t count) const {
    std::string data;
    std::vector<int32_t> ends;
    for (int32_t id = 0; id < count; ++id) {
      if (id < pieces_->size()) data += rules_.spell(id);
      ends.push_back(static_cast<int32_t>(data.size()));
    }
    return nb::make_tuple(nb::bytes(data.data(), data.size()), nb::bytes(ends.data(), ends.size() * sizeof(int32_t)));
  }

 protected:
  Rules rules_;

 private:
  std::shared_ptr<Pieces> pieces_;
};

class SentencePieceVocabulary : public Vocabulary<SentencePiece> {
 public:
  SentencePieceVocabulary(std::shared_ptr<Pieces> pieces, nb::handle types, nb::handle scores, int32_t unknown)
      : Vocabulary(pieces, SentencePiece(pieces, Bytes("types", types).items<uint8_t>(),
                                         Bytes("scores", scores).items<float>(), unknown)) {}

  nb::tuple encode(nb::str text, bool parse_special, bool prefix) const {
    const Text utf8(text);
    Encoded encoded;
    {
      nb::gil_scoped_release release;
      encoded = rules_.encode(utf8.view(), parse_special, prefix);
    }
    return nb::make_tuple(list_of(encoded.ids), list_of(encoded.named));
  }
};

class ByteLevelVocabulary : public Vocabulary<ByteLevel> {
 public:
  ByteLevelVocabulary(std::shared_ptr<Pieces> pieces, nb::handle types, nb::handle data, nb::handle starts,
                      nb::handle ends, bool whole_words)
      : Vocabulary(pieces, ByteLevel(pieces, Bytes("types", types).items<uint8_t>(),
                                     HeldStrings(data, starts, ends).view(), whole_words)) {}

  nb::list names(nb::str text, bool parse_special) const {
    return list_of(rules_.names().find(Text(text).view(), parse_special));
  }

  nb::list encode(nb::str text, const std::vector<uint32_t>& ends) const {
    const Text utf8(text);
    std::vector<int32_t> ids;
    {
      nb::gil_scoped_release release;
      ids = rules_.encode(utf8.view(), ends);
    }
    return list_of(ids);
  }
};

}  // namespace

NB_MODULE(_text, m) {
  nb::set_leak_warnings(false);  // a tokenizer may live as long as the interpreter
  m.def("find_strings", places_of_strings, "data"_a, "position"_a, "count"_a);
  m.def("order_of", order, "data"_a, "ends"_a, "left_out"_a);
  nb::class_<Pieces>(m, "Pieces")
      .def("__init__", construct_pieces, "data"_a, "starts"_a, "ends"_a)
      .def("__len__", &Pieces::size)
      .def("__getitem__",
           [](const Pieces& self, int64_t id) {
             check_id(self, id);
             return text(self[static_cast<int32_t>(id)]);
           })
      .def("find", [](const Pieces& self, nb::str piece) { return self.find(Text(piece).view()); }, "piece"_a);
  nb::class_<SentencePieceVocabulary>(m, "SentencePiece")
      .def(nb::init<std::shared_ptr<Pieces>, nb::handle, nb::handle, int32_t>(), "pieces"_a, "types"_a, "scores"_a,
           "unknown"_a)
      .def("encode", &SentencePieceVocabulary::encode, "text"_a, nb::kw_only(), "parse_special"_a, "prefix"_a)
      .def("spell", &SentencePieceVocabulary::spell, "id"_a)
      .def("spell_all", &SentencePieceVocabulary::spell_all, "count"_a);
  nb::class_<ByteLevelVocabulary>(m, "ByteLevel")
      .def(nb::init<std::shared_ptr<Pieces>, nb::handle, nb::handle, nb::handle, nb::handle, bool>(), "pieces"_a,
           "types"_a, "merges"_a, "starts"_a, "ends"_a, nb::kw_only(), "whole_words"_a)
      .def("names", &ByteLevelVocabulary::names, "text"_a, nb::kw_only(), "parse_special"_a)
      .def("encode", &ByteLevelVocabulary::encode, "text"_a, "ends"_a)
      .def("spell", &ByteLevelVocabulary::spell, "id"_a)
      .def("spell_all", &ByteLevelVocabulary::spell_all, "count"_a);
}

}  // namespace legato
