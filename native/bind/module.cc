// Python's view of the native core: takes arrays apart, releases the GIL, calls. No logic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <thread>
#include <tuple>

#include "../cpu/dispatch.h"
#include "../program.h"
#include "buffer.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace legato {
namespace {

// A field of a batch dataclass. The array stays referenced by the Python object for the time of a call.
template <class T, size_t Dimensions>
nb::ndarray<T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu> array_of(nb::handle object, const char* name) {
  nb::ndarray<T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu> array;
  if (!nb::try_cast(nb::getattr(object, name), array, false)) {
    throw std::invalid_argument(std::string(name) + ": not a C-contiguous array of the right dtype and dimensions");
  }
  return array;
}

template <class T, size_t Dimensions>
View<T> field(nb::handle object, const char* name) {
  const auto array = array_of<const T, Dimensions>(object, name);
  View<T> view;
  view.data = array.data();
  view.rows = static_cast<int64_t>(array.shape(0));
  if constexpr (Dimensions == 2) view.columns = static_cast<int64_t>(array.shape(1));
  return view;
}

SamplingView sampling_view(nb::handle s) {
  SamplingView view;
  view.temperature = field<float, 1>(s, "temperature");
  view.top_k = field<int32_t, 1>(s, "top_k");
  view.top_p = field<float, 1>(s, "top_p");
  view.min_p = field<float, 1>(s, "min_p");
  view.repetition_penalty = field<float, 1>(s, "repetition_penalty");
  view.presence_penalty = field<float, 1>(s, "presence_penalty");
  view.frequency_penalty = field<float, 1>(s, "frequency_penalty");
  view.seed = field<uint64_t, 1>(s, "seed");
  view.draw_position = field<uint64_t, 1>(s, "draw_position");
  view.forced = field<int32_t, 1>(s, "forced");
  view.num_logprobs = field<int32_t, 1>(s, "num_logprobs");
  view.prompt_indptr = field<int32_t, 1>(s, "prompt_indptr");
  view.prompt_ids = field<int32_t, 1>(s, "prompt_ids");
  view.output_indptr = field<int32_t, 1>(s, "output_indptr");
  view.output_ids = field<int32_t, 1>(s, "output_ids");
  view.bias_indptr = field<int32_t, 1>(s, "bias_indptr");
  view.bias_ids = field<int32_t, 1>(s, "bias_ids");
  view.bias_values = field<float, 1>(s, "bias_values");
  view.mask_index = field<int32_t, 1>(s, "mask_index");
  view.fallback_index = field<int32_t, 1>(s, "fallback_index");
  view.masks = field<uint32_t, 2>(s, "masks");
  return view;
}

BatchView batch_view(nb::handle b) {
  BatchView view;
  view.token_ids = field<int32_t, 1>(b, "token_ids");
  view.positions = field<int32_t, 1>(b, "positions");
  view.sequences = field<int32_t, 1>(b, "sequences");
  view.slots = field<int32_t, 1>(b, "slots");
  view.block_tables = field<int32_t, 2>(b, "block_tables");
  view.block_copies = field<int32_t, 2>(b, "block_copies");
  view.logit_rows = field<int32_t, 1>(b, "logit_rows");
  view.sampling = sampling_view(nb::getattr(b, "sampling"));
  view.hash_logits = nb::cast<bool>(nb::getattr(b, "hash_logits"));
  return view;
}

// A numpy array that owns its copy of `count` values from `values`, row by row.
template <class T>
nb::object to_numpy(const T* values, int64_t rows, int64_t columns, bool matrix, int64_t stride) {
  T* copy = new T[static_cast<size_t>(rows * columns) + 1];
  nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  for (int64_t r = 0; r < rows; ++r) std::copy_n(values + r * stride, columns, copy + r * columns);
  const size_t shape[2] = {static_cast<size_t>(rows), static_cast<size_t>(columns)};
  return nb::cast(nb::ndarray<nb::numpy, T>(copy, matrix ? 2 : 1, shape, owner));
}

template <class T>
nb::object to_numpy(const std::vector<T>& values) {
  return to_numpy(values.data(), static_cast<int64_t>(values.size()), 1, false, 1);
}

using IntVector = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

nb::tuple result(const StepOutput& output) {
  const int64_t rows = static_cast<int64_t>(output.tokens.size()), columns = output.top_columns;
  return nb::make_tuple(to_numpy(output.tokens), to_numpy(output.logprobs), to_numpy(output.ranks),
                        to_numpy(output.top_ids.data(), rows, columns, true, columns),
                        to_numpy(output.top_logprobs.data(), rows, columns, true, columns), to_numpy(output.hashes));
}

nb::tuple run(Program& program, nb::handle batch) {
  const BatchView view = batch_view(batch);
  StepOutput output;
  {
    nb::gil_scoped_release release;
    output = program.run(view);
  }
  return result(output);
}

// A batch of decodes, taken apart once. It holds the arrays, whatever the batch has later.
class Decoding {
 public:
  Decoding(Program& program, nb::handle batch)
      : program_(program),
        held_(nb::module_::import_("copy").attr("copy")(batch)),
        held_sampling_(nb::module_::import_("copy").attr("copy")(nb::getattr(batch, "sampling"))),
        view_(batch_view(batch)),
        rows_{writable<int32_t>(batch, "token_ids"), writable<int32_t>(batch, "positions"),
              writable<int32_t>(batch, "slots"), writable<uint64_t>(nb::getattr(batch, "sampling"), "draw_position")} {
    program.check(view_);
    if (view_.logit_rows.rows != view_.token_ids.rows) {
      throw std::invalid_argument("logit_rows: not every row decodes");
    }
  }

  std::vector<int32_t> step(const std::vector<int32_t>& tokens) {
    nb::gil_scoped_release release;
    move_on(view_, rows_, tokens);
    return program_.run(view_).tokens;
  }

 private:
  template <class T>
  static T* writable(nb::handle object, const char* name) {
    return array_of<T, 1>(object, name).data();
  }

  Program& program_;
  nb::object held_, held_sampling_;
  BatchView view_;
  MovingRows rows_;
};

nb::tuple redraw(Program& program, nb::handle batch, const IntVector& rows) {
  const View<int32_t> wanted{rows.data(), static_cast<int64_t>(rows.shape(0)), 1};
  return result(program.redraw(batch_view(batch), wanted));
}

// What two threads take to meet, on the average: twice the way of a cache line between two processors. It is short
// where they share a cache.
double barrier_ns() {
  constexpr uint32_t kMeetings = 2000, kTimes = 50;
  std::atomic<uint32_t> arrived{0};
  const auto meet = [&](uint32_t time) {
    for (uint32_t i = time * kMeetings; i < (time + 1) * kMeetings; ++i) {
      arrived.fetch_add(1);
      for (int spins = 1; arrived.load(std::memory_order_acquire) < 2 * (i + 1); ++spins) {
        if (spins % 10000 == 0) std::this_thread::yield();
      }
    }
  };
  nb::gil_scoped_release release;
  std::thread other([&] {
    for (uint32_t time = 0; time < kTimes; ++time) meet(time);
  });
  double least = INFINITY;  // another program's turn lengthens one
  for (uint32_t time = 0; time < kTimes; ++time) {
    const auto began = std::chrono::steady_clock::now();
    meet(time);
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - began;
    least = std::min(least, took.count() / kMeetings);
  }
  other.join();
  return least;
}

int add_matrix(Program& program, const std::string& format, int64_t rows, int64_t columns, nb::handle data) {
  const Bytes bytes("data", data);
  const std::vector<MatrixPart> parts{{rows, columns, bytes.data(), bytes.size()}};
  nb::gil_scoped_release release;
  return program.matrix(format, parts);
}

int add_matrix_parts(Program& program,
                     const std::vector<std::tuple<std::string, int64_t, int64_t, nb::object>>& parts) {
  std::vector<Bytes> buffers;
  std::vector<MatrixPart> views;
  if (parts.empty()) throw std::invalid_argument("parts: is empty");
  for (const auto& [format, rows, columns, data] : parts) {
    if (format != std::get<0>(parts[0])) throw std::invalid_argument("parts: the formats differ");
    buffers.emplace_back("data", data);
    views.push_back({rows, columns, buffers.back().data(), buffers.back().size()});
  }
  nb::gil_scoped_release release;
  return program.matrix(std::get<0>(parts[0]), views);
}

// Read-only, without a copy; `owner` lives as long as the array.
nb::object view_of(const uint8_t* data, size_t bytes, nb::handle owner) {
  return nb::cast(nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(data, {bytes}, owner));
}

nb::object packed(nb::handle program, int matrix) {
  const std::span<const uint8_t> bytes = nb::cast<const Program&>(program).packed(matrix);
  return view_of(bytes.data(), bytes.size(), program);
}

nb::bytes read_kv_block(const Program& program, int64_t block) {
  const int64_t size = program.kv_block_bytes();
  const KvPool& pool = program.kv_with(block, static_cast<size_t>(size));
  const auto bytes = nb::steal<nb::bytes>(PyBytes_FromStringAndSize(nullptr, size));
  if (!bytes.is_valid()) throw nb::python_error();
  pool.read(block, reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(bytes.ptr())));
  return bytes;
}

void write_kv_block(const Program& program, int64_t block, nb::handle data) {
  const Bytes bytes("data", data);
  program.kv_with(block, bytes.size()).write(block, bytes.data());
}

uint64_t checksum_of(nb::handle data) {
  const Bytes bytes("data", data);
  nb::gil_scoped_release release;
  return checksum(bytes.data(), bytes.size());
}

void bind_packed(nb::module_& m) {
  m.def("checksum", &checksum_of, "data"_a);
  nb::class_<PackedWeights>(m, "PackedWeights")
      .def(nb::init<const std::string&, int64_t, int64_t, int>(), "path"_a, "offset"_a, "bytes"_a, "threads"_a,
           nb::call_guard<nb::gil_scoped_release>())
      .def("view", [](nb::handle self) {
        const PackedWeights& weights = nb::cast<const PackedWeights&>(self);
        return view_of(weights.data(), static_cast<size_t>(weights.size()), self);
      });
}

int add_vector(Program& program, nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu> values) {
  return program.vector(values.data(), static_cast<int64_t>(values.shape(0)));
}

nb::object logits(const Program& program) {
  return to_numpy(program.logits(), program.logit_row_count(), program.vocabulary(), true, program.vocabulary());
}

nb::object activation(const Program& program, int buffer, int64_t rows) {
  const int64_t width = program.buffer_width(buffer);
  if (rows < 0 || rows > program.max_tokens()) throw std::invalid_argument("rows: more than max_tokens");
  const int64_t stride = program.buffer_row(buffer, 1) - program.buffer_row(buffer, 0);
  return to_numpy(program.buffer_row(buffer, 0), rows, width, true, stride);
}

void bind_data(nb::class_<Program>& program) {
  program
      .def(nb::init<const std::string&, int, int64_t, int64_t, const Program*>(), nb::kw_only(), "isa"_a, "threads"_a,
           "max_tokens"_a, "max_logit_rows"_a, "beside"_a.none() = nb::none())
      .def_prop_ro("isa", &Program::isa)
      .def_prop_ro("threads", &Program::threads)
      .def("buffer", &Program::buffer, "width"_a)
      .def("vector", &add_vector, "values"_a)
      .def("matrix", &add_matrix, "format"_a, "rows"_a, "columns"_a, "data"_a)
      .def("matrix_concat", &add_matrix_parts, "parts"_a)
      .def("packed_matrix", &Program::packed_matrix, "weights"_a, "format"_a, "rows"_a, "columns"_a, "offset"_a)
      .def("packed", &packed, "matrix"_a)
      .def("rope_table", &Program::rope_table, "inverse_frequencies"_a, "scale"_a)
      .def("kv_cache", &Program::kv_cache, nb::kw_only(), "layers"_a, "blocks"_a, "kv_heads"_a, "head_dim"_a, "dtype"_a)
      .def("kv_block_bytes", &Program::kv_block_bytes)
      .def("read_kv_block", &read_kv_block, "block"_a)
      .def("write_kv_block", &write_kv_block, "block"_a, "data"_a)
      .def("num_matrices", &Program::matrix_count)
      .def("weight_bytes", &Program::weight_bytes)
      .def("kv_bytes_reserved", &Program::kv_bytes_reserved);
}

void bind_operators(nb::class_<Program>& program) {
  program.def("embed", &Program::embed, "table"_a, "out"_a, "scale"_a = 1.0f)
      .def("rms_norm", &Program::rms_norm, "x"_a, "weight"_a, "out"_a, "eps"_a)
      .def("head_norm", &Program::head_norm, "x"_a, "weight"_a, "eps"_a, nb::kw_only(), "offset"_a, "heads"_a,
           "head_dim"_a)
      .def("linear", &Program::linear, "x"_a, "matrix"_a, "out"_a, nb::kw_only(), "bias"_a = -1, "accumulate"_a = false,
           "out_offset"_a = 0, "read_outputs"_a = 0)
      .def("gather", &Program::gather, "buffers"_a)
      .def(
          "rope",
          [](Program& p, int x, int table, int offset, int heads, int head_dim, int rotary_dim, bool interleaved) {
            p.rope({x, table, offset, heads, head_dim, rotary_dim, interleaved});
          },
          "x"_a, "table"_a, nb::kw_only(), "offset"_a, "heads"_a, "head_dim"_a, "rotary_dim"_a, "interleaved"_a)
      .def(
          "kv_write",
          [](Program& p, int layer, int k, int k_offset, int v, int v_offset) {
            p.kv_write({layer, k, k_offset, v, v_offset});
          },
          "layer"_a, "k"_a, "k_offset"_a, "v"_a, "v_offset"_a)
      .def(
          "attention",
          [](Program& p, int layer, int q, int q_offset, int out, int heads, float scale, int window, float softcap) {
            p.attention({layer, q, q_offset, out, heads, scale, softcap, window, 0});
          },
          "layer"_a, "q"_a, "q_offset"_a, "out"_a, nb::kw_only(), "heads"_a, "scale"_a, "window"_a = 0,
          "softcap"_a = 0.0f)
      .def("gated", &Program::gated, "x"_a, "gate_offset"_a, "up_offset"_a, "out"_a, "activation"_a)
      .def("add", &Program::add, "x"_a, "y"_a)
      .def("head", &Program::head, "x"_a, "norm_weight"_a, "eps"_a, "matrix"_a, nb::kw_only(), "softcap"_a = 0.0f,
           "scale"_a = 1.0f, "bias"_a = -1);
}

}  // namespace
}  // namespace legato

NB_MODULE(_native, m) {
  using namespace legato;
  nb::list formats;
  for (const std::string& name : format_names()) formats.append(nb::cast(name));
  m.attr("FORMATS") = nb::tuple(formats);
  m.attr("KV_GROUP") = kKvGroup;
  m.def("supported_isas", &supported_isas);
  m.def("barrier_ns", &barrier_ns);
  bind_packed(m);
  nb::class_<Program> program(m, "Program");
  bind_data(program);
  bind_operators(program);
  nb::class_<Decoding>(m, "Decoding").def("step", &Decoding::step, "tokens"_a);
  program.def("run", &run, "batch"_a)
      .def("redraw", &redraw, "batch"_a, "rows"_a)
      .def(
          "decoding", [](Program& p, nb::handle batch) { return Decoding(p, batch); }, "batch"_a,
          nb::keep_alive<0, 1>())
      .def("logits", &logits)
      .def("activation", &activation, "buffer"_a, "rows"_a)
      .def("profile", &Program::profile);
}
