// One step: the plan's stages on every thread, each on its share of the rows or outputs.
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "program.h"

namespace legato {

struct Program::Step {
  const BatchView& batch;
  StepOutput& output;
  int64_t tokens, logit_rows;
  std::atomic<int64_t> next_sample{0};
};

namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// Clears the flag however the step ends.
class Running {
 public:
  explicit Running(std::atomic<bool>& flag) : flag_(flag) {
    if (flag_.exchange(true)) throw std::runtime_error("run: a step of this program is already in progress");
  }
  ~Running() { flag_ = false; }

 private:
  std::atomic<bool>& flag_;
};

}  // namespace

StepOutput Program::run(const BatchView& batch) {
  const Running running(running_);
  const int64_t blocks = kv_layers_.empty() ? 0 : kv_layers_[0].blocks;
  check(batch, {max_tokens_, max_logit_rows_, input_vocabulary_, vocabulary(), blocks});
  StepOutput output;
  Step step{batch, output, batch.token_ids.rows, batch.logit_rows.rows};
  begin(step);
  threads_.run([&](int thread) { execute(step, thread); });
  logit_row_count_ = step.logit_rows;
  return output;
}

// Everything that may allocate or fail, before the threads start.
void Program::begin(Step& step) {
  check_kv_operators();
  const int64_t rows = step.logit_rows;
  StepOutput& output = step.output;
  output.tokens.assign(rows, -1);
  output.ranks.assign(rows, 0);
  output.logprobs.assign(rows, NAN);
  for (int64_t r = 0; r < rows; ++r) {
    output.top_columns = std::max<int64_t>(output.top_columns, step.batch.sampling.num_logprobs[r]);
  }
  output.top_ids.assign(rows * output.top_columns, -1);
  output.top_logprobs.assign(rows * output.top_columns, NAN);
  output.hashes.assign(step.batch.hash_logits ? rows : 0, 0);
  size_t scratch = 0;
  for (const Stage& stage : plan_.stages()) {
    const Attention* op = std::get_if<Attention>(&stage.operation);
    if (op) scratch = std::max(scratch, kernels_.attention_scratch(attention_args(step, *op), threads_.count()));
  }
  if (scratch > attention_scratch_.size()) attention_scratch_ = Region(scratch, Pages::Small);
}

void Program::execute(Step& step, int thread) {
  if (step.batch.block_copies.rows > 0) {
    copy_blocks(step, thread);
    threads_.barrier();
  }
  const bool measure = profiling_ && thread == 0;
  Clock::time_point last = measure ? Clock::now() : Clock::time_point();
  const auto charge = [&](size_t slot) {
    const Clock::time_point now = Clock::now();
    seconds_[slot] += seconds_between(last, now);
    last = now;
  };
  for (const Stage& stage : plan_.stages()) {
    if (stage.barrier) {
      threads_.barrier();
      if (measure) charge(seconds_.size() - 1);
    }
    std::visit([&](const auto& operation) { apply(step, operation, thread); }, stage.operation);
    if (measure) charge(stage.operation.index());
  }
}

// Each layer on one thread, so that a chain of copies keeps its order.
void Program::copy_blocks(const Step& step, int thread) const {
  const View<int32_t>& copies = step.batch.block_copies;
  const Share layers = share(static_cast<int64_t>(kv_layers_.size()), thread, threads_.count());
  for (int64_t layer = layers.begin; layer < layers.end; ++layer) {
    const KvLayer& kv = kv_layers_[layer];
    const size_t bytes = kv_memory_[0].size() / kv.blocks;
    for (int64_t c = 0; c < copies.rows; ++c) {
      const int64_t source = copies[2 * c], destination = copies[2 * c + 1];
      if (source == destination) continue;
      std::memcpy(kv.k + destination * bytes, kv.k + source * bytes, bytes);
      std::memcpy(kv.v + destination * bytes, kv.v + source * bytes, bytes);
    }
  }
}

// --- operators that treat each row alone -------------------------------------------------------------------------

void Program::apply(const Step& step, const Embed& op, int thread) const {
  const Matrix& table = matrices_[op.table];
  const Share rows = share(step.tokens, thread, threads_.count());
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    float* out = buffers_[op.out].row(t);
    kernels_.matrix_row(table, step.batch.token_ids[t], out);
    if (op.scale != 1.0f) kernels_.scale(out, table.columns, op.scale, 0.0f);
  }
}

// As transformers computes them: the angle as a float, then the float functions.
void Program::apply(const Step& step, const RopeRows& op, int thread) const {
  const RopeTable& table = rope_tables_[op.table];
  const float* frequencies = vectors_[table.inverse_frequencies].data();
  const Share rows = share(step.tokens, thread, threads_.count());
  for (int64_t t = rows.begin; t < rows.end; ++t) {
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

void Program::apply(const Step& step, const RmsNorm& op, int thread) const {
  const Share rows = share(step.tokens, thread, threads_.count());
  const Buffer &x = buffers_[op.x], &out = buffers_[op.out];
  const float* weight = vectors_[op.weight].data();
  for (int64_t t = rows.begin; t < rows.end; ++t) kernels_.rms_norm(x.row(t), weight, out.row(t), x.width, op.eps);
}

void Program::apply(const Step& step, const HeadNorm& op, int thread) const {
  const Share rows = share(step.tokens, thread, threads_.count());
  const float* weight = vectors_[op.weight].data();
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    float* head = buffers_[op.x].row(t) + op.offset;
    for (int h = 0; h < op.heads; ++h, head += op.head_dim) kernels_.rms_norm(head, weight, head, op.head_dim, op.eps);
  }
}

void Program::apply(const Step& step, const PrepareRows& op, int thread) const {
  const Share rows = share(step.tokens, thread, threads_.count());
  if (rows.begin == rows.end) return;
  const Buffer& x = buffers_[op.x];
  uint8_t* out = prepared_[static_cast<size_t>(op.form)].memory.data();
  const size_t row_bytes = kernels_.row_bytes(op.form, op.columns);
  kernels_.prepare_rows(op.form, x.row(rows.begin), x.stride, rows.end - rows.begin, op.columns,
                        out + rows.begin * row_bytes);
}

void Program::apply(const Step& step, const Rope& op, int thread) const {
  const RopeTable& table = rope_tables_[op.table];
  const Share rows = share(step.tokens, thread, threads_.count());
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    const float* cosines = table.row(t);
    float* head = buffers_[op.x].row(t) + op.offset;
    for (int h = 0; h < op.heads; ++h, head += op.head_dim) {
      kernels_.rope(head, cosines, cosines + table.half, op.rotary_dim, op.interleaved);
    }
  }
}

void Program::apply(const Step& step, const KvWrite& op, int thread) const {
  const Share rows = share(step.tokens, thread, threads_.count());
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    kernels_.kv_write(kv_layers_[op.layer], buffers_[op.k].row(t) + op.k_offset, buffers_[op.v].row(t) + op.v_offset,
                      step.batch.slots[t]);
  }
}

void Program::apply(const Step& step, const Gated& op, int thread) const {
  const Share rows = share(step.tokens, thread, threads_.count());
  const Buffer& out = buffers_[op.out];
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    const float* x = buffers_[op.x].row(t);
    kernels_.gated(x + op.gate_offset, x + op.up_offset, out.row(t), out.width, op.activation);
  }
}

void Program::apply(const Step& step, const Add& op, int thread) const {
  const Share rows = share(step.tokens, thread, threads_.count());
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    kernels_.add(buffers_[op.x].row(t), buffers_[op.y].row(t), buffers_[op.x].width);
  }
}

// --- operators that read all rows --------------------------------------------------------------------------------

void Program::apply(const Step& step, const Linear& op, int thread) const {
  const Matrix& matrix = matrices_[op.matrix];
  const Share tiles = share((matrix.rows + kLanes - 1) / kLanes, thread, threads_.count());
  if (tiles.begin == tiles.end) return;
  const Buffer& out = buffers_[op.out];
  const float* bias = op.bias < 0 ? nullptr : vectors_[op.bias].data();
  kernels_.matmul(matrix, prepared_[static_cast<size_t>(op.form)].memory.data(), step.tokens, tiles.begin, tiles.end,
                  out.row(0) + op.out_offset, out.stride, bias, op.accumulate);
}

AttentionArgs Program::attention_args(const Step& step, const Attention& op) const {
  const BatchView& batch = step.batch;
  const Buffer &q = buffers_[op.q], &out = buffers_[op.out];
  AttentionArgs args;
  args.q = q.row(0) + op.q_offset;
  args.q_stride = q.stride;
  args.out = out.row(0);
  args.out_stride = out.stride;
  args.kv = kv_layers_[op.layer];
  args.positions = batch.positions.data;
  args.sequences = batch.sequences.data;
  args.block_tables = batch.block_tables.data;
  args.table_stride = batch.block_tables.columns;
  args.rows = static_cast<int32_t>(step.tokens);
  args.heads = op.heads;
  args.window = op.window;
  args.scale = op.scale;
  args.softcap = op.softcap;
  return args;
}

void Program::apply(const Step& step, const Attention& op, int thread) const {
  kernels_.attention(attention_args(step, op), attention_scratch_.data(), op.phase, thread, threads_.count());
}

// --- head ----------------------------------------------------------------------------------------------------------

void Program::apply(const Step& step, const HeadRows& op, int thread) const {
  const Share rows = share(step.logit_rows, thread, threads_.count());
  const Buffer& x = buffers_[op.x];
  const float* weight = vectors_[op.weight].data();
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    float* normed = reinterpret_cast<float*>(head_norm_.data()) + r * x.width;
    kernels_.rms_norm(x.row(step.batch.logit_rows[r]), weight, normed, x.width, op.eps);
    kernels_.prepare_rows(op.form, normed, x.width, 1, x.width, head_prepared_.data() + r * head_row_bytes_);
  }
}

void Program::apply(const Step& step, const Logits& op, int thread) const {
  const Matrix& matrix = matrices_[op.matrix];
  const Share tiles = share((matrix.rows + kLanes - 1) / kLanes, thread, threads_.count());
  if (tiles.begin == tiles.end || step.logit_rows == 0) return;
  float* logits = reinterpret_cast<float*>(logits_.data());
  const float* bias = op.bias < 0 ? nullptr : vectors_[op.bias].data();
  kernels_.matmul(matrix, head_prepared_.data(), step.logit_rows, tiles.begin, tiles.end, logits, matrix.rows, bias,
                  false);
  if (op.scale == 1.0f && op.softcap == 0.0f) return;
  const int64_t begin = tiles.begin * kLanes, end = std::min(tiles.end * kLanes, matrix.rows);
  for (int64_t r = 0; r < step.logit_rows; ++r) {
    kernels_.scale(logits + r * matrix.rows + begin, end - begin, op.scale, op.softcap);
  }
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
  row.output_position = s.output_position[r];
  row.prompt_ids = s.prompt_ids.data + s.prompt_indptr[r];
  row.prompt_count = s.prompt_indptr[r + 1] - s.prompt_indptr[r];
  row.output_ids = s.output_ids.data + s.output_indptr[r];
  row.output_count = s.output_indptr[r + 1] - s.output_indptr[r];
  row.bias_ids = s.bias_ids.data + s.bias_indptr[r];
  row.bias_values = s.bias_values.data + s.bias_indptr[r];
  row.bias_count = s.bias_indptr[r + 1] - s.bias_indptr[r];
  row.mask = s.mask_index[r] < 0 ? nullptr : s.masks.data + s.mask_index[r] * s.masks.columns;
  return row;
}

// Rows differ in cost by far (greedy, top-p with log-probabilities), so each thread takes the next one.
void Program::apply(Step& step, const Sample&, int thread) const {
  const int64_t vocabulary = this->vocabulary();
  StepOutput& output = step.output;
  while (true) {
    const int64_t r = step.next_sample.fetch_add(1, std::memory_order_relaxed);
    if (r >= step.logit_rows) return;
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
    if (row.num_logprobs < 0) continue;
    output.logprobs[r] = result.logprob;
    output.ranks[r] = result.rank;
  }
}

std::map<std::string, double> Program::profile() {
  std::map<std::string, double> seconds;
  if (profiling_) {
    for (size_t i = 0; i + 1 < seconds_.size(); ++i) seconds[kOperationNames[i]] = seconds_[i];
    seconds["wait"] = seconds_.back();
  }
  seconds_.fill(0.0);
  profiling_ = true;
  return seconds;
}

}  // namespace legato
