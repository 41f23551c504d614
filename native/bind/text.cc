// Python's view of native/text: a module of its own, since the server needs nothing else of the native core.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string_view.h>

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

void construct_pieces(Pieces* self, nb::handle data, nb::handle starts, nb::handle ends) {
  const Bytes held_data("data", data), held_starts("starts", starts), held_ends("ends", ends);
  new (self) Pieces(held_data.items<uint8_t>(), held_starts.items<uint64_t>(), held_ends.items<uint64_t>());
}

nb::tuple places_of_strings(nb::handle data, uint64_t position, size_t count) {
  const Places places = find_strings(Bytes("data", data).items<uint8_t>(), position, count);
  const auto bytes = [](const std::vector<uint64_t>& v) { return nb::bytes(v.data(), v.size() * sizeof(uint64_t)); };
  return nb::make_tuple(bytes(places.starts), bytes(places.ends));
}

// The vocabulary, and its pieces for those who ask for one by name.
class Vocabulary {
 public:
  Vocabulary(std::shared_ptr<Pieces> pieces, nb::handle types, nb::handle scores, int32_t unknown)
      : pieces_(pieces),
        rules_(pieces, Bytes("types", types).items<uint8_t>(), Bytes("scores", scores).items<float>(), unknown) {}

  nb::tuple encode(nb::str text, bool parse_special, bool prefix) const {
    // Not the string's own copy as UTF-8: it would stay as long as the string.
    const nb::object utf8 = nb::steal(PyUnicode_AsUTF8String(text.ptr()));
    if (!utf8.is_valid()) throw nb::python_error();
    const std::string_view bytes(PyBytes_AS_STRING(utf8.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(utf8.ptr())));
    Encoded encoded;
    {
      nb::gil_scoped_release release;
      encoded = rules_.encode(bytes, parse_special, prefix);
    }
    nb::list ids, named;
    for (const int32_t id : encoded.ids) ids.append(id);
    for (const Named& name : encoded.named) named.append(nb::make_tuple(name.id, name.start, name.end));
    return nb::make_tuple(ids, named);
  }

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

 private:
  std::shared_ptr<Pieces> pieces_;
  SentencePiece rules_;
};

}  // namespace

NB_MODULE(_text, m) {
  nb::set_leak_warnings(false);  // a tokenizer may live as long as the interpreter
  m.def("find_strings", places_of_strings, "data"_a, "position"_a, "count"_a);
  nb::class_<Pieces>(m, "Pieces")
      .def("__init__", construct_pieces, "data"_a, "starts"_a, "ends"_a)
      .def("__len__", &Pieces::size)
      .def("__getitem__",
           [](const Pieces& self, int64_t id) {
             check_id(self, id);
             return text(self[static_cast<int32_t>(id)]);
           })
      .def("find", &Pieces::find, "piece"_a);
  nb::class_<Vocabulary>(m, "SentencePiece")
      .def(nb::init<std::shared_ptr<Pieces>, nb::handle, nb::handle, int32_t>(), "pieces"_a, "types"_a, "scores"_a,
           "unknown"_a)
      .def("encode", &Vocabulary::encode, "text"_a, nb::kw_only(), "parse_special"_a, "prefix"_a)
      .def("spell", &Vocabulary::spell, "id"_a)
      .def("spell_all", &Vocabulary::spell_all, "count"_a);
}

}  // namespace legato
