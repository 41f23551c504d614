// Building a program: its data, and the operators' checks and accesses. Running it is in step.cc.
#include "program.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "cpu/dispatch.h"

namespace legato {
namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& why) {
  throw std::invalid_argument(name + ": " + why);
}

const Kernels& find_kernels(const std::string& isa) {
  const Kernels* found = kernels(isa.c_str());
  if (found) return *found;
  std::string known;
  for (const std::string& name : supported_isas()) known += (known.empty() ? "" : ", ") + name;
  refuse("isa", "'" + isa + "' is unknown or not supported by this processor, which has: " + known);
}

int64_t in_range(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    refuse(name, std::to_string(value) + " is not in " + std::to_string(least) + ".." + std::to_string(most));
  }
  return value;
}

constexpr const char* kFormatNames[] = {"F32",  "F16",  "BF16", "Q8_0", "Q4_0", "Q4_1",
                                        "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"};
static_assert(std::size(kFormatNames) == static_cast<size_t>(Format::kCount));

Format parse_format(const std::string& name) {
  for (size_t i = 0; i < std::size(kFormatNames); ++i) {
    if (name == kFormatNames[i]) return static_cast<Format>(i);
  }
  refuse("format", "'" + name + "' is unknown");
}

KvType parse_kv_type(const std::string& name) {
  const std::pair<const char*, KvType> known[] = {
      {"float16", KvType::F16}, {"bfloat16", KvType::BF16}, {"float32", KvType::F32}, {"int8", KvType::I8}};
  for (const auto& [type, value] : known) {
    if (name == type) return value;
  }
  refuse("dtype", "'" + name + "' is unknown");
}

constexpr int64_t kMostRows =
    int64_t{1} << 24;  // tokens of a step, width of a buffer, rows of a matrix: sane, no overflow

}  // namespace

std::vector<std::string> format_names() { return {std::begin(kFormatNames), std::end(kFormatNames)}; }

Program::Program(const std::string& isa, int threads, int64_t max_tokens, int64_t max_logit_rows, const Program* beside)
    : kernels_(find_kernels(isa)),
      max_tokens_(in_range("max_tokens", max_tokens, 1, kMostRows)),
      max_logit_rows_(in_range("max_logit_rows", max_logit_rows, 1, kMostRows)),
      team_(beside ? beside->team_ : std::make_shared<Team>(static_cast<int>(in_range("threads", threads, 1, 1024)))),
      threads_(team_->threads),
      turns_(threads_.count()) {}

// --- data ------------------------------------------------------------------------------------------------------

int Program::buffer(int64_t width) {
  in_range("width", width, 1, kMostRows);
  const int64_t stride = (width + kLanes - 1) / kLanes * kLanes;
  buffers_.push_back({width, stride, Region(max_tokens_ * stride * sizeof(float), Pages::Small)});
  return static_cast<int>(buffers_.size()) - 1;
}

int Program::vector(const float* values, int64_t count) {
  in_range("values", count, 1, kMostRows);
  vectors_.emplace_back(values, values + count);
  return static_cast<int>(vectors_.size()) - 1;
}

int Program::matrix(const std::string& format_name, const std::vector<MatrixPart>& parts) {
  const Format format = parse_format(format_name);
  if (parts.empty()) refuse("parts", "is empty");
  const int64_t columns = in_range("columns", parts[0].columns, 1, kMostRows);
  const int64_t row_bytes = source_row_bytes(format, columns);
  if (row_bytes < 0) refuse("columns", std::to_string(columns) + " is not a multiple of the block of " + format_name);
  int64_t rows = 0;
  bool aligned = true;  // every part but the last fills its tiles
  for (const MatrixPart& part : parts) {
    if (part.columns != columns) refuse("columns", "the parts differ");
    in_range("rows", part.rows, 1, kMostRows);
    if (static_cast<int64_t>(part.bytes) != part.rows * row_bytes) {
      refuse("data", "has " + std::to_string(part.bytes) + " bytes, expected " + std::to_string(part.rows * row_bytes));
    }
    aligned = aligned && rows % kLanes == 0;
    rows += part.rows;
  }
  const int64_t tiles = (rows + kLanes - 1) / kLanes, tile_bytes = packed_tile_bytes(format, columns);
  uint8_t* packed = weights_.take(tiles * tile_bytes);
  const auto pack_part = [&](const uint8_t* source, int64_t part_rows, uint8_t* out) {
    threads_.run([&](int thread) {
      const Share tiles_here = share((part_rows + kLanes - 1) / kLanes, thread, threads_.count());
      if (tiles_here.begin == tiles_here.end) return;
      pack(format, source, part_rows, columns, tiles_here.begin, tiles_here.end, out);
    });
  };
  if (aligned) {
    int64_t row = 0;
    for (const MatrixPart& part : parts) {
      pack_part(part.data, part.rows, packed + row / kLanes * tile_bytes);
      row += part.rows;
    }
  } else {  // a tile spans parts: pack from one copy
    std::vector<uint8_t> joined;
    joined.reserve(rows * row_bytes);
    for (const MatrixPart& part : parts) joined.insert(joined.end(), part.data, part.data + part.bytes);
    pack_part(joined.data(), rows, packed);
  }
  matrices_.push_back({format, rows, columns, packed, tile_bytes});
  weight_bytes_ += tiles * tile_bytes;
  return static_cast<int>(matrices_.size()) - 1;
}

int Program::packed_matrix(std::shared_ptr<const PackedWeights> weights, const std::string& format_name, int64_t rows,
                           int64_t columns, int64_t offset) {
  const Format format = parse_format(format_name);
  in_range("rows", rows, 1, kMostRows);
  in_range("columns", columns, 1, kMostRows);
  if (source_row_bytes(format, columns) < 0) refuse("columns", "not a multiple of the block of " + format_name);
  const int64_t tile_bytes = packed_tile_bytes(format, columns), bytes = (rows + kLanes - 1) / kLanes * tile_bytes;
  if (offset < 0 || offset % 64 != 0 || bytes > weights->size() - offset) refuse("offset", std::to_string(offset));
  matrices_.push_back({format, rows, columns, weights->data() + offset, tile_bytes});
  weight_bytes_ += bytes;
  if (packed_weights_.empty() || packed_weights_.back() != weights) packed_weights_.push_back(std::move(weights));
  return static_cast<int>(matrices_.size()) - 1;
}

std::span<const uint8_t> Program::packed(int index) const {
  const Matrix& matrix = matrix_at("matrix", index);
  return {matrix.data, static_cast<size_t>((matrix.rows + kLanes - 1) / kLanes * matrix.tile_bytes)};
}

int Program::rope_table(int inverse_frequencies, float scale) {
  if (inverse_frequencies < 0 || inverse_frequencies >= static_cast<int>(vectors_.size())) {
    refuse("inverse_frequencies", "no vector " + std::to_string(inverse_frequencies));
  }
  const int64_t half = static_cast<int64_t>(vectors_[inverse_frequencies].size());
  Region memory(max_tokens_ * 2 * half * sizeof(float), Pages::Small);
  rope_tables_.push_back({inverse_frequencies, scale, half, std::move(memory)});
  rope_planned_.push_back(false);
  return static_cast<int>(rope_tables_.size()) - 1;
}

void Program::kv_cache(int layers, int64_t blocks, int kv_heads, int head_dim, const std::string& type) {
  if (kv_.num_layers() > 0) refuse("kv_cache", "is already there");
  in_range("layers", layers, 1, 1 << 16);
  in_range("blocks", blocks, 1, (int64_t{1} << 31) / kBlock - 1);  // slots are int32
  in_range("kv_heads", kv_heads, 1, 1 << 16);
  in_range("head_dim", head_dim, 1, 1 << 16);
  const KvType kv_type = parse_kv_type(type);
  if (kv_type == KvType::I8) in_range("head_dim", head_dim, 1, kMostInt8Dimensions);
  kv_ = KvPool(layers, blocks, kv_type, kv_heads, head_dim);
  {
    const std::lock_guard lock(team_->mutex);
    team_->pools.push_back(kv_.memory());
  }
  kv_.want(0);
  threads_.run([](int) {});  // wakes the thread that will find nothing else to do
}

// A pool's program may end meanwhile.
bool Program::Team::populate() {
  const std::lock_guard lock(mutex);
  for (const std::weak_ptr<GrowingRegion>& pool : pools) {
    const std::shared_ptr<GrowingRegion> here = pool.lock();
    if (here && here->grow()) return true;
  }
  return false;
}

int64_t Program::kv_block_bytes() const {
  if (kv_.num_layers() == 0) refuse("kv_cache", "there is none");
  return kv_.block_bytes();
}

const KvPool& Program::kv_with(int64_t block, size_t bytes) const {
  in_range("bytes", static_cast<int64_t>(bytes), kv_block_bytes(), kv_block_bytes());
  in_range("block", block, 0, kv_.num_blocks() - 1);
  return kv_;
}

// --- checks ----------------------------------------------------------------------------------------------------

const Program::Buffer& Program::buffer_at(const char* name, int index) const {
  if (index < 0 || index >= static_cast<int>(buffers_.size())) refuse(name, "no buffer " + std::to_string(index));
  return buffers_[index];
}

const Matrix& Program::matrix_at(const char* name, int index) const {
  if (index < 0 || index >= static_cast<int>(matrices_.size())) refuse(name, "no matrix " + std::to_string(index));
  return matrices_[index];
}

void Program::check_vector(const char* name, int index, int64_t length) const {
  if (index < 0 || index >= static_cast<int>(vectors_.size())) refuse(name, "no vector " + std::to_string(index));
  const int64_t actual = static_cast<int64_t>(vectors_[index].size());
  if (actual != length) {
    refuse(name, "has " + std::to_string(actual) + " values, expected " + std::to_string(length));
  }
}

void Program::check_columns(const char* name, int buffer, int64_t offset, int64_t width) const {
  const int64_t actual = buffer_at(name, buffer).width;
  if (offset < 0 || width < 0 || offset + width > actual) {
    refuse(name, "columns " + std::to_string(offset) + ".." + std::to_string(offset + width) +
                     " of a buffer of width " + std::to_string(actual));
  }
}

int64_t Program::buffer_width(int buffer) const { return buffer_at("buffer", buffer).width; }

const float* Program::buffer_row(int buffer, int64_t row) const { return buffer_at("buffer", buffer).row(row); }

// The cache may be reserved after the operators that use it, so they are checked before the first step.
void Program::check_kv_operators() const {
  for (const Stage& stage : few_rows_.stages()) {
    const KvWrite* write = std::get_if<KvWrite>(&stage.operation);
    const Attention* attention = std::get_if<Attention>(&stage.operation);
    if (!write && !attention) continue;
    const int layer = write ? write->layer : attention->layer;
    if (layer < 0 || layer >= kv_.num_layers()) {
      refuse("layer", "the KV cache has no layer " + std::to_string(layer));
    }
    const KvLayer& kv = kv_[layer];
    const int64_t width = int64_t{kv.kv_heads} * kv.head_dim;
    if (write) {
      check_columns("k", write->k, write->k_offset, width);
      check_columns("v", write->v, write->v_offset, width);
    } else {
      if (attention->heads % kv.kv_heads != 0) refuse("heads", "not a multiple of the cache's kv_heads");
      check_columns("q", attention->q, attention->q_offset, int64_t{attention->heads} * kv.head_dim);
      check_columns("out", attention->out, 0, int64_t{attention->heads} * kv.head_dim);
    }
  }
}

// --- operators -------------------------------------------------------------------------------------------------

Access Program::columns(int buffer, int64_t begin, int64_t end, bool rows, bool write) const {
  return {{Resource::Buffer, buffer}, rows, write, begin, end};
}

Access Program::whole(int buffer, bool rows, bool write) const {
  return columns(buffer, 0, buffers_[buffer].width, rows, write);
}

void Program::plan(Operation operation, const std::vector<Access>& accesses) {
  if (head_matrix_ >= 0 && !std::holds_alternative<Logits>(operation) && !std::holds_alternative<Sample>(operation)) {
    refuse("head", "must be the last operator");
  }
  const bool needs_all = std::holds_alternative<Embed>(operation) || std::holds_alternative<RopeRows>(operation) ||
                         std::holds_alternative<Rope>(operation) || std::holds_alternative<KvWrite>(operation);
  if (gather_ >= 0 && needs_all) refuse("gather", "embed, rope and kv_write must come before it");
  for (const Access& access : accesses) {
    if (access.resource.kind != Resource::Buffer || !access.write) continue;
    for (PreparedRows& rows : prepared_) {
      if (rows.source == access.resource.index) rows.source = -1;  // stale from here on
    }
  }
  few_rows_.append(operation, accesses);
  accesses_.push_back(accesses);
  std::vector<Access> by_rows = accesses;
  if (std::holds_alternative<Linear>(operation)) {
    for (Access& access : by_rows) access.rows = true;
  }
  many_rows_.append(operation, by_rows);
}

// Buffers that only hold what a thread can compute again for itself: norms and activations of what all threads see.
void Program::find_own_buffers() {
  for (Buffer& buffer : buffers_) buffer.is_own = true;
  for (size_t i = 0; i < few_rows_.size(); ++i) {
    const Operation& operation = few_rows_.stages()[i].operation;
    const RmsNorm* norm = std::get_if<RmsNorm>(&operation);
    const Gated* gated = std::get_if<Gated>(&operation);
    if ((norm && norm->x != norm->out) || (gated && gated->x != gated->out)) continue;
    if (const Gather* gather = std::get_if<Gather>(&operation)) {
      for (const int buffer : gather->buffers) buffers_[buffer].is_own = false;
    }
    const bool may_read = std::holds_alternative<PrepareRows>(operation) || std::holds_alternative<Add>(operation);
    for (const Access& access : accesses_[i]) {
      const bool is_read = may_read && !access.write;
      if (access.resource.kind == Resource::Buffer && !is_read) buffers_[access.resource.index].is_own = false;
    }
  }
}

// What a stage repeats, it reads of all rows and writes where no other thread looks.
void Program::plan_repeated() {
  find_own_buffers();
  repeated_ = Plan(true);
  const auto is_own = [&](const Access& access) {
    return access.resource.kind == Resource::Prepared ||
           (access.resource.kind == Resource::Buffer && buffers_[access.resource.index].is_own);
  };
  for (size_t i = 0; i < few_rows_.size(); ++i) {
    std::vector<Access> shared;
    bool is_repeated = false;
    for (const Access& access : accesses_[i]) {
      is_repeated = is_repeated || (access.write && is_own(access));
      if (!is_own(access)) shared.push_back(access);
    }
    if (is_repeated) {
      for (Access& access : shared) access.rows = false;
      if (shared.empty()) shared.push_back({{Resource::Prepared, -1}, false, false});  // not by rows, meets nothing
    }
    repeated_.append(few_rows_.stages()[i].operation, shared);
  }
}

void Program::embed(int table, int out, float scale) {
  const Matrix& matrix = matrix_at("table", table);
  if (buffer_at("out", out).width != matrix.columns) refuse("out", "its width is not the table's columns");
  input_vocabulary_ = input_vocabulary_ == 0 ? matrix.rows : std::min(input_vocabulary_, matrix.rows);
  plan(Embed{table, out, scale}, {whole(out, true, true)});
}

void Program::rms_norm(int x, int weight, int out, float eps) {
  const int64_t width = buffer_at("x", x).width;
  if (buffer_at("out", out).width != width) refuse("out", "its width is not that of x");
  check_vector("weight", weight, width);
  plan(RmsNorm{x, weight, out, eps}, {whole(x, true, false), whole(out, true, true)});
}

void Program::head_norm(int x, int weight, float eps, int offset, int heads, int head_dim) {
  in_range("heads", heads, 1, kMostRows);
  in_range("head_dim", head_dim, 1, kMostRows);
  const int64_t end = offset + int64_t{heads} * head_dim;
  check_columns("x", x, offset, end - offset);
  check_vector("weight", weight, head_dim);
  plan(HeadNorm{x, weight, eps, offset, heads, head_dim}, {columns(x, offset, end, true, true)});
}

// Rows of x in the form of the next product; nothing to do when the last preparation still holds.
void Program::prepare(int x, RowForm form, int64_t columns) {
  PreparedRows& rows = prepared_[static_cast<size_t>(form)];
  if (rows.source == x) return;
  const size_t row_bytes = kernels_.row_bytes(form, columns);
  if (row_bytes > rows.row_bytes) {
    rows.row_bytes = row_bytes;
    rows.memory = Region(max_tokens_ * row_bytes, Pages::Small);
  }
  const Access write{{Resource::Prepared, static_cast<int>(form)}, true, true};
  plan(PrepareRows{x, form, columns}, {whole(x, true, false), write});
  rows.source = x;
}

void Program::linear(int x, int matrix_index, int out, int bias, bool accumulate, int out_offset,
                     int64_t read_outputs) {
  const Matrix& matrix = matrix_at("matrix", matrix_index);
  if (buffer_at("x", x).width != matrix.columns) refuse("x", "its width is not the matrix's columns");
  check_columns("out", out, out_offset, matrix.rows);
  if (bias >= 0) check_vector("bias", bias, matrix.rows);
  in_range("read_outputs", read_outputs, 0, gather_ < 0 ? matrix.rows : 0);
  const RowForm form = kernels_.row_form(matrix.format);
  prepare(x, form, matrix.columns);
  plan(Linear{matrix_index, out, bias, accumulate, out_offset, form, read_outputs / kLanes},
       {{{Resource::Prepared, static_cast<int>(form)}, false, false},
        columns(out, out_offset, out_offset + matrix.rows, false, true)});
}

void Program::rope(const Rope& op) {
  if (op.table < 0 || op.table >= static_cast<int>(rope_tables_.size())) {
    refuse("table", "no rope table " + std::to_string(op.table));
  }
  if (op.rotary_dim != 2 * rope_tables_[op.table].half) refuse("rotary_dim", "is not twice the table's frequencies");
  if (op.rotary_dim > op.head_dim) refuse("rotary_dim", "is larger than head_dim");
  in_range("heads", op.heads, 1, kMostRows);
  const int64_t end = op.offset + int64_t{op.heads} * op.head_dim;
  check_columns("x", op.x, op.offset, end - op.offset);
  const Resource table{Resource::RopeTable, op.table};
  if (!rope_planned_[op.table]) plan(RopeRows{op.table}, {{table, true, true}});
  rope_planned_[op.table] = true;
  plan(op, {columns(op.x, op.offset, end, true, true), {table, true, false}});
}

void Program::kv_write(const KvWrite& op) {
  buffer_at("k", op.k);
  buffer_at("v", op.v);
  plan(op, {whole(op.k, true, false), whole(op.v, true, false), {{Resource::KvCache, op.layer}, true, true}});
}

// What the batch says of its rows (token ids, positions, slots) is not gathered: what needs it must come before.
void Program::gather(const std::vector<int>& buffers) {
  if (gather_ >= 0) refuse("gather", "is already there");
  for (const int buffer : buffers) buffer_at("buffers", buffer);
  gather_ = static_cast<int64_t>(few_rows_.stages().size());
  plan(Gather{buffers}, {});
  for (PreparedRows& rows : prepared_) rows.source = -1;
}

void Program::attention(Attention op) {
  buffer_at("q", op.q);
  buffer_at("out", op.out);
  in_range("heads", op.heads, 1, kMostRows);
  in_range("window", op.window, 0, INT32_MAX);
  for (op.phase = 0; op.phase < 2; ++op.phase) {
    plan(op, {whole(op.q, false, false),
              whole(op.out, false, true),
              {{Resource::KvCache, op.layer}, false, false},
              {{Resource::AttentionScratch, 0}, false, true}});
  }
}

void Program::gated(int x, int gate_offset, int up_offset, int out, const std::string& activation) {
  const int64_t width = buffer_at("out", out).width;
  check_columns("x", x, gate_offset, width);
  check_columns("x", x, up_offset, width);
  const char* const names[] = {"silu", "gelu_tanh", "gelu"};
  const auto found = std::find(std::begin(names), std::end(names), activation);
  if (found == std::end(names)) refuse("activation", "'" + activation + "' is unknown");
  plan(Gated{x, gate_offset, up_offset, out, static_cast<int>(found - std::begin(names))},
       {whole(x, true, false), whole(out, true, true)});
}

void Program::add(int x, int y) {
  if (buffer_at("x", x).width != buffer_at("y", y).width) refuse("y", "its width is not that of x");
  plan(Add{x, y}, {whole(y, true, false), whole(x, true, true)});
}

void Program::head(int x, int norm_weight, float eps, int matrix_index, float softcap, float scale, int bias) {
  const Matrix& matrix = matrix_at("matrix", matrix_index);
  if (buffer_at("x", x).width != matrix.columns) refuse("x", "its width is not the matrix's columns");
  check_vector("norm_weight", norm_weight, matrix.columns);
  if (bias >= 0) check_vector("bias", bias, matrix.rows);
  const RowForm form = kernels_.row_form(matrix.format);
  head_row_bytes_ = kernels_.row_bytes(form, matrix.columns);
  head_norm_ = Region(max_logit_rows_ * matrix.columns * sizeof(float), Pages::Small);
  head_prepared_ = Region(max_logit_rows_ * head_row_bytes_, Pages::Small);
  logits_ = Region(max_logit_rows_ * matrix.rows * sizeof(float), Pages::Small);
  sample_scratch_bytes_ = (kernels_.sample_scratch(matrix.rows) + 63) / 64 * 64;
  sample_scratch_ = Region(sample_scratch_bytes_ * threads_.count(), Pages::Small);
  plan(HeadRows{x, norm_weight, eps, form}, {whole(x, false, false), {{Resource::HeadPrepared, 0}, false, true}});
  head_matrix_ = matrix_index;
  const Resource logits{Resource::LogitRows, 0};
  plan(Logits{matrix_index, bias, scale, softcap, form},
       {{{Resource::HeadPrepared, 0}, false, false}, {logits, false, true}});
  plan(Sample{}, {{logits, false, true}});
}

}  // namespace legato
