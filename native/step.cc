// One step: the plan's stages on every thread, each on its share of the rows or outputs.
#include "step.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace legato {

namespace {

// With this many rows each thread has enough of them to use a matrix well.
constexpr int64_t kManyRows = 32;
// Rows that pass through a layer together: their activations fit into a second-level cache.
constexpr int64_t kPartRows = 64;
// Rows that are drawn again in less time than the other threads take to wake.
constexpr int64_t kRedrawnAlone = 2;

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
  const Running running(team_->is_running);
  const int64_t blocks = kv_layers_.empty() ? 0 : kv_layers_[0].blocks;
  check(batch, {max_tokens_, max_logit_rows_, input_vocabulary_, vocabulary(), blocks});
  StepOutput output;
  const int64_t tokens = batch.token_ids.rows;
  Step step{batch, output, tokens, batch.logit_rows.rows, tokens >= kManyRows * threads_.count()};
  begin(step);
  copy_blocks(batch);
  threads_.run([&](int thread) { execute(step, thread); });
  logit_row_count_ = step.logit_rows;
  return output;
}

// The last step's logits are still there.
StepOutput Program::redraw(const BatchView& batch, const View<int32_t>& rows) {
  const Running running(team_->is_running);
  const int64_t blocks = kv_layers_.empty() ? 0 : kv_layers_[0].blocks;
  check(batch, {max_tokens_, max_logit_rows_, input_vocabulary_, vocabulary(), blocks});
  if (batch.logit_rows.rows != logit_row_count_) throw std::invalid_argument("batch: is not that of the last step");
  StepOutput output;
  Step step{batch, output, batch.token_ids.rows, batch.logit_rows.rows, false};
  step.is_redrawn = true;
  clear(step);
  for (int64_t i = 0; i < rows.rows; ++i) {
    if (rows[i] < 0 || rows[i] >= step.logit_rows) {
      throw std::invalid_argument("rows: entry " + std::to_string(i) + " is " + std::to_string(rows[i]) +
                                  ", not in 0.." + std::to_string(step.logit_rows - 1));
    }
  }
  const auto draw_rows = [&](int thread) {
    for (int64_t i = step.next_sample++; i < rows.rows; i = step.next_sample++) draw(step, rows[i], thread);
  };
  if (rows.rows <= kRedrawnAlone) {
    draw_rows(0);
  } else {
    threads_.run(draw_rows);
  }
  return output;
}

// Nothing is drawn yet.
void Program::clear(Step& step) {
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
}

// Everything that may allocate or fail, before the threads start.
void Program::begin(Step& step) {
  check_kv_operators();
  clear(step);
  if (step.many_rows) divide_rows(step);
  step.first_turn = next_turn_;
  next_turn_ += few_rows_.stages().size();  // as many as in many_rows_
  size_t scratch = 0;
  for (const Stage& stage : few_rows_.stages()) {
    const Attention* op = std::get_if<Attention>(&stage.operation);
    if (op) scratch = std::max(scratch, kernels_.attention_scratch(attention_args(step, *op), threads_.count()));
  }
  if (scratch > attention_scratch_.size()) attention_scratch_ = Region(scratch, Pages::Small);
}

// Parts of equal size, as many for each thread; the products work on rows in blocks of 4 or 6.
void Program::divide_rows(Step& step) {
  constexpr int64_t unit = 4;
  const int64_t turns = (step.tokens + kPartRows * threads_.count() - 1) / (kPartRows * threads_.count());
  const int64_t even = (step.tokens + turns * threads_.count() - 1) / (turns * threads_.count());
  step.part_rows = (even + unit - 1) / unit * unit;
  step.parts = (step.tokens + step.part_rows - 1) / step.part_rows;
  step.next_part = std::make_unique<std::atomic<int64_t>[]>(many_rows_.stages().size());
}

void Program::execute(Step& step, int thread) {
  Meter meter(profiling_ && thread == 0);
  const std::vector<Stage>& stages = (step.many_rows ? many_rows_ : few_rows_).stages();
  const Share all{0, step.tokens};
  size_t previous = 0;
  for (size_t i = 0; i < stages.size();) {
    if (stages[i].barrier) {
      threads_.barrier(thread);
      meter.charge(waited_[previous]);
    }
    size_t end = i + 1;
    if (stages[i].by_rows) {
      while (end < stages.size() && stages[end].by_rows && !stages[end].barrier) ++end;
      run_rows(step, {&stages[i], &stages[0] + end}, thread, meter);
    } else {
      run_stage(step, stages[i], {all, thread, threads_.count(), step.first_turn + i}, meter);
    }
    previous = stages[end - 1].operation.index();
    i = end;
  }
}

// Stages on the thread's own rows; with many rows, on one part after the other, as long as there are any.
void Program::run_rows(Step& step, std::span<const Stage> stages, int thread, Meter& meter) {
  if (!step.many_rows) {
    const Part part{share(step.tokens, thread, threads_.count()), 0, 1, 0};
    for (const Stage& stage : stages) run_stage(step, stage, part, meter);
    return;
  }
  std::atomic<int64_t>& next = step.next_part[&stages[0] - &many_rows_.stages()[0]];
  for (int64_t p = next++; p < step.parts; p = next++) {
    const Part part{{p * step.part_rows, std::min((p + 1) * step.part_rows, step.tokens)}, 0, 1, 0};
    for (const Stage& stage : stages) run_stage(step, stage, part, meter);
  }
}

void Program::run_stage(Step& step, const Stage& stage, const Part& part, Meter& meter) {
  std::visit([&](const auto& operation) { apply(step, operation, part); }, stage.operation);
  meter.charge(seconds_[stage.operation.index()]);
}

// One after the other: a copy may be the source of the next.
void Program::copy_blocks(const BatchView& batch) const {
  for (int64_t c = 0; c < batch.block_copies.rows; ++c) {
    const int64_t source = batch.block_copies[2 * c], destination = batch.block_copies[2 * c + 1];
    const int64_t bytes = kv_layers_[0].block_stride;
    if (source != destination) {
      std::memcpy(kv_memory_.data() + destination * bytes, kv_memory_.data() + source * bytes, bytes);
    }
  }
}

std::map<std::string, double> Program::profile() {
  std::map<std::string, double> seconds;
  for (size_t i = 0; i < seconds_.size(); ++i) {
    const std::string name = kOperationNames[i];
    if (seconds_[i] > 0) seconds[name] = seconds_[i];
    if (waited_[i] > 0) seconds["wait " + name] = waited_[i];
  }
  seconds_.fill(0.0);
  waited_.fill(0.0);
  profiling_ = true;
  return seconds;
}

}  // namespace legato
