// Each operator of a program on one part of a step: the kernels' arguments, nothing else.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "program.h"
#include "step.h"

namespace legato {

// --- operators that treat each row alone -------------------------------------------------------------------------

void Program::apply(const Step& step, const Embed& op, const Part& part) const {
  const Matrix& table = matrices_[op.table];
  for (int64_t t = part.rows.begin; t < part.rows.end; ++t) {
    float* out = buffers_[op.out].row(t);
    kernels_.matrix_row(table, step.batch.token_ids[t], out);
    if (op.scale != 1.0f) kernels_.scale(out, table.columns, op.scale, 0.0f);
  }
}

// As transformers computes them: the angle as a float, then the float functions.
void Program::apply(const Step& step, const RopeRows& op, const Part& part) const {
  const RopeTable& table = rope_tables_[op.table];
  const float* frequencies = vectors_[table.inverse_frequencies].data();
  for (int64_t t = part.rows.begin; t < part.rows.end; ++t) {
    const float position = static_cast<float>(step.batch.positions[t]);
    float* cosines = table.row(t);
    float* sines = cosines + table.half;
    for (int64_t i = 0; i < table.half; ++i) {
      const float angle = position * frequencies[i];
      cosines[i] = std::cos(angle) * table.scale;
      sines[i] = std::sin(angle) * table.scale;
    }
  }
}

void Program::apply(const Step&, const RmsNorm& op, const Part& part) const {
  const float* weight = vectors_[op.weight].data();
  for (int64_t t = part.rows.begin; t < part.rows.end; ++t) {
    kernels_.rms_norm(row(op.x, t, part), weight, row(op.out, t, part), buffers_[op.x].width, op.eps);
  }
}

void Program::apply(const Step&, const HeadNorm& op, const Part& part) const {
  const float* weight = vectors_[op.weight].data();
  for (int64_t t = part.rows.begin; t < part.rows.end; ++t) {
    float* head = buffers_[op.x].row(t) + op.offset;
    for (int h = 0; h < op.heads; ++h, head += op.head_dim) kernels_.rms_norm(head, weight, head, op.head_dim, op.eps);
  }
}

// Where rows from `begin` on are kept. With few rows, all of them follow each other, for the product reads them all.
// With many, a part's place must not depend on the columns: other parts may be at a product of another width.
uint8_t* Program::prepared_row(const RowSet& set, RowForm form, int64_t columns, int64_t begin) const {
  const PreparedRows& prepared = prepared_[static_cast<size_t>(form)];
  const size_t row_bytes = set.many ? prepared.row_bytes : kernels_.row_bytes(form, columns);
  return prepared.memory.data() + begin * row_bytes;
}

void Program::apply(const Step&, const PrepareRows& op, const Part& part) const {
  const Share rows = part.rows;
  if (rows.begin == rows.end) return;
  uint8_t* out = prepared_row(part.set, op.form, op.columns, part.first + part.own);
  out += (rows.begin - part.first) * kernels_.row_bytes(op.form, op.columns);
  const int64_t stride = buffers_[op.x].stride;
  kernels_.prepare_rows(op.form, row(op.x, rows.begin, part), stride, rows.end - rows.begin, op.columns, out);
}

void Program::apply(const Step&, const Rope& op, const Part& part) const {
  const RopeTable& table = rope_tables_[op.table];
  for (int64_t t = part.rows.begin; t < part.rows.end; ++t) {
    const float* cosines = table.row(t);
    float* head = buffers_[op.x].row(t) + op.offset;
    for (int h = 0; h < op.heads; ++h, head += op.head_dim) {
      kernels_.rope(head, cosines, cosines + table.half, op.rotary_dim, op.interleaved);
    }
  }
}

void Program::apply(const Step& step, const KvWrite& op, const Part& part) const {
  const Share rows = part.rows;
  if (rows.begin == rows.end) return;
  const Buffer &k = buffers_[op.k], &v = buffers_[op.v];
  kernels_.kv_write(kv_[op.layer], {k.row(rows.begin) + op.k_offset, v.row(rows.begin) + op.v_offset, k.stride,
                                    v.stride, step.batch.slots.data + rows.begin, rows.end - rows.begin});
}

void Program::apply(const Step&, const Gated& op, const Part& part) const {
  const Buffer& out = buffers_[op.out];
  for (int64_t t = part.rows.begin; t < part.rows.end; ++t) {
    const float* x = row(op.x, t, part);
    kernels_.gated(x + op.gate_offset, x + op.up_offset, row(op.out, t, part), out.width, op.activation);
  }
}

void Program::apply(const Step&, const Add& op, const Part& part) const {
  for (int64_t t = part.rows.begin; t < part.rows.end; ++t) {
    kernels_.add(buffers_[op.x].row(t), row(op.y, t, part), buffers_[op.x].width);
  }
}

// --- matrix products and attention ----------------------------------------------------------------------------------

// Weights that a thread takes at once: a few microseconds' reading. Less would interrupt the reading too often. With
// rows for which computing takes longer than reading, it is less, so that the threads are done at nearly the same time.
constexpr int64_t kTurnBytes = 64 << 10, kLeastTurnBytes = 16 << 10, kReadRows = 4;

// The rows among `some` that want logits, in runs: work(run).
template <class Work>
void Program::for_read_rows(const Step& step, Share some, const Work& work) {
  const View<int32_t>& read = step.batch.logit_rows;
  const int32_t* const last = read.data + read.rows;
  const int32_t* row = std::lower_bound(read.data, last, some.begin);
  while (row != last && *row < some.end) {
    Share run{*row, *row + 1};
    while (++row != last && *row == run.end && run.end < some.end) ++run.end;
    work(run);
  }
}

// All tiles for the part's rows, or turns of them with the other threads: work(begin, end). Products like pairs of
// tiles. As many turns for each thread, and none longer than the others by more than a pair: a small matrix has few.
template <class Work>
void Program::take_tiles(const Matrix& matrix, const Part& part, const Work& work) {
  const int64_t tiles = (matrix.rows + kLanes - 1) / kLanes, pairs = (tiles + 1) / 2;
  if (part.threads == 1) return work(0, tiles);
  const int64_t rows = std::max(part.rows.end - part.rows.begin, kReadRows);
  const int64_t bytes = std::max(kTurnBytes * kReadRows / rows, kLeastTurnBytes);
  const int64_t turns = (tiles * matrix.tile_bytes + bytes - 1) / bytes;
  const int64_t even = std::min((turns + part.threads - 1) / part.threads * part.threads, pairs);
  turns_.take(part.turn, even, part.thread,
              [&](int64_t piece) { work(pairs * piece / even * 2, std::min(pairs * (piece + 1) / even * 2, tiles)); });
}

void Program::apply(const Step& step, const Linear& op, const Part& part) {
  const Matrix& matrix = matrices_[op.matrix];
  const Share rows = part.rows;
  if (rows.begin == rows.end) return;
  const Buffer& out = buffers_[op.out];
  const uint8_t* x = prepared_row(part.set, op.form, matrix.columns, rows.begin + part.own);
  const size_t row_bytes = kernels_.row_bytes(op.form, matrix.columns);
  const float* bias = op.bias < 0 ? nullptr : vectors_[op.bias].data();
  const auto product = [&](Share some, int64_t begin, int64_t end) {
    kernels_.matmul(matrix, x + (some.begin - rows.begin) * row_bytes, some.end - some.begin, begin, end,
                    out.row(some.begin) + op.out_offset, out.stride, bias, op.accumulate);
  };
  const int64_t read_tiles = step.gathers ? op.read_tiles : 0;
  take_tiles(matrix, part, [&](int64_t begin, int64_t end) {
    const int64_t dense = std::clamp(read_tiles, begin, end);
    if (begin < dense) for_read_rows(step, rows, [&](Share run) { product(run, begin, dense); });
    if (dense < end) product(rows, dense, end);
  });
}

// The rows that want logits move up, in order.
void Program::move_up(const Step& step) const {
  const Gather& op = std::get<Gather>(few_rows_.stages()[gather_].operation);
  for (const int buffer : op.buffers) {
    const Buffer& rows = buffers_[buffer];
    for (int64_t r = 0; r < step.logit_rows; ++r) {
      const int64_t from = step.batch.logit_rows[r];
      if (from != r) std::memcpy(rows.row(r), rows.row(from), rows.width * sizeof(float));
    }
  }
}

AttentionArgs Program::attention_args(const Step& step, const RowSet& set, const Attention& op) const {
  const BatchView& batch = step.batch;
  const Buffer &q = buffers_[op.q], &out = buffers_[op.out];
  AttentionArgs args;
  args.q = q.row(0) + op.q_offset;
  args.q_stride = q.stride;
  args.out = out.row(0);
  args.out_stride = out.stride;
  args.kv = kv_[op.layer];
  args.positions = set.positions;
  args.sequences = set.sequences;
  args.block_tables = batch.block_tables.data;
  args.table_stride = batch.block_tables.columns;
  args.rows = static_cast<int32_t>(set.count);
  args.heads = op.heads;
  args.window = op.window;
  args.scale = op.scale;
  args.softcap = op.softcap;
  return args;
}

void Program::apply(const Step& step, const Attention& op, const Part& part) const {
  kernels_.attention(attention_args(step, part.set, op), attention_scratch_.data(), op.phase, part.thread,
                     part.threads);
}

// --- head ----------------------------------------------------------------------------------------------------------

void Program::apply(const Step& step, const HeadRows& op, const Part& part) const {
  const Share rows = share(step.logit_rows, part.thread, part.threads);
  const Buffer& x = buffers_[op.x];
  const float* weight = vectors_[op.weight].data();
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    float* normed = reinterpret_cast<float*>(head_norm_.data()) + r * x.width;
    const int64_t row = step.gathers ? r : step.batch.logit_rows[r];
    kernels_.rms_norm(x.row(row), weight, normed, x.width, op.eps);
    kernels_.prepare_rows(op.form, normed, x.width, 1, x.width, head_prepared_.data() + r * head_row_bytes_);
  }
}

void Program::apply(const Step& step, const Logits& op, const Part& part) {
  const Matrix& matrix = matrices_[op.matrix];
  if (step.logit_rows == 0) return;
  float* logits = reinterpret_cast<float*>(logits_.data());
  const float* bias = op.bias < 0 ? nullptr : vectors_[op.bias].data();
  take_tiles(matrix, part, [&](int64_t first, int64_t last) {
    kernels_.matmul(matrix, head_prepared_.data(), step.logit_rows, first, last, logits, matrix.rows, bias, false);
    if (op.scale == 1.0f && op.softcap == 0.0f) return;
    const int64_t begin = first * kLanes, end = std::min(last * kLanes, matrix.rows);
    for (int64_t r = 0; r < step.logit_rows; ++r) {
      kernels_.scale(logits + r * matrix.rows + begin, end - begin, op.scale, op.softcap);
    }
  });
}

SampleRow Program::sample_row(const Step& step, int64_t r) const {
  const SamplingView& s = step.batch.sampling;
  SampleRow row;
  row.temperature = s.temperature[r];
  row.top_p = s.top_p[r];
  row.min_p = s.min_p[r];
  row.repetition_penalty = s.repetition_penalty[r];
  row.presence_penalty = s.presence_penalty[r];
  row.frequency_penalty = s.frequency_penalty[r];
  row.top_k = s.top_k[r];
  row.forced = s.forced[r];
  row.num_logprobs = s.num_logprobs[r];
  row.seed = s.seed[r];
  row.draw_position = s.draw_position[r];
  row.prompt_ids = s.prompt_ids.data + s.prompt_indptr[r];
  row.prompt_count = s.prompt_indptr[r + 1] - s.prompt_indptr[r];
  row.output_ids = s.output_ids.data + s.output_indptr[r];
  row.output_count = s.output_indptr[r + 1] - s.output_indptr[r];
  row.bias_ids = s.bias_ids.data + s.bias_indptr[r];
  row.bias_values = s.bias_values.data + s.bias_indptr[r];
  row.bias_count = s.bias_indptr[r + 1] - s.bias_indptr[r];
  const auto mask = [&](int64_t index) { return index < 0 ? nullptr : s.masks.data + index * s.masks.columns; };
  row.attempt = 0;
  row.mask = mask(s.mask_index[r]);
  row.fallback = mask(s.fallback_index[r]);
  if (step.is_redrawn && row.fallback) {  // its first token was refused: what is left is the second draw
    row.attempt = 1;
    row.mask = std::exchange(row.fallback, nullptr);
  }
  return row;
}

// Rows differ in cost by far (greedy, top-p with log-probabilities), so each thread takes the next one.
void Program::apply(Step& step, const Sample&, const Part& part) const {
  while (true) {
    const int64_t r = step.next_sample.fetch_add(1, std::memory_order_relaxed);
    if (r >= step.logit_rows) return;
    draw(step, r, part.thread);
  }
}

void Program::draw(Step& step, int64_t r, int thread) const {
  const int64_t vocabulary = this->vocabulary();
  StepOutput& output = step.output;
  const float* logits = this->logits() + r * vocabulary;
  if (step.batch.hash_logits) output.hashes[r] = kernels_.hash_row(logits, vocabulary);
  const SampleRow row = sample_row(step, r);
  SampleResult result{-1, 0, NAN, nullptr, nullptr};
  if (row.num_logprobs > 0) {
    result.top_ids = output.top_ids.data() + r * output.top_columns;
    result.top_logprobs = output.top_logprobs.data() + r * output.top_columns;
  }
  kernels_.sample(logits, vocabulary, row, result, sample_scratch_.data() + thread * sample_scratch_bytes_);
  output.tokens[r] = result.token;
  if (row.num_logprobs < 0) return;
  output.logprobs[r] = result.logprob;
  output.ranks[r] = result.rank;
}

}  // namespace legato
