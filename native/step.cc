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
// With at most as many, each thread makes all rows ready for the products itself.
constexpr int64_t kRepeatedRows = 2;
// Rows that pass through a layer together: their activations fit into a second-level cache.
constexpr int64_t kPartRows = 64;
// Of them, those that pass through the stages between two products together. A multiple of what the preparation of rows
// takes at once.
constexpr int64_t kRowsAtOnce = 8;
// With fewer rows that nobody reads, gathering the others costs more than it saves.
constexpr int64_t kWorthGathering = 16;
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

void Program::check(const BatchView& batch) const {
  const int64_t blocks = kv_.num_blocks();
  legato::check(batch, {max_tokens_, max_logit_rows_, input_vocabulary_, vocabulary(), blocks});
}

StepOutput Program::run(const BatchView& batch) {
  const Running running(team_->is_running);
  check(batch);
  StepOutput output;
  Step step{batch, output, batch.logit_rows.rows, all_rows(batch)};
  begin(step);
  if (kv_.num_layers() > 0) {
    kv_.want(*std::max_element(batch.slots.data, batch.slots.data + batch.slots.rows) / kBlock);
  }
  for (int64_t c = 0; c < batch.block_copies.rows; ++c) {  // one after the other: a copy may be the source of the next
    kv_.copy(batch.block_copies[2 * c], batch.block_copies[2 * c + 1]);
  }
  threads_.run_phases([&](Threads::Member& member) { execute(step, member); });
  logit_row_count_ = step.logit_rows;
  return output;
}

// The last step's logits are still there.
StepOutput Program::redraw(const BatchView& batch, const View<int32_t>& rows) {
  const Running running(team_->is_running);
  check(batch);
  if (batch.logit_rows.rows != logit_row_count_) throw std::invalid_argument("batch: is not that of the last step");
  StepOutput output;
  Step step{batch, output, batch.logit_rows.rows, all_rows(batch)};
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
  if (repeated_.size() != few_rows_.size()) plan_repeated();
  clear(step);
  divide_rows(step.all);
  step.gathers = gather_ >= 0 && step.all.count - step.logit_rows >= kWorthGathering;
  if (step.gathers) choose_read_rows(step);
  step.next_part = std::make_unique<std::atomic<int64_t>[]>(many_rows_.stages().size());
  step.first_turn = next_turn_;
  next_turn_ += few_rows_.stages().size();  // as many as in many_rows_
  size_t scratch = 0;
  const std::vector<Stage>& stages = few_rows_.stages();
  for (size_t i = 0; i < stages.size(); ++i) {
    const RowSet& set = step.gathers && static_cast<int64_t>(i) > gather_ ? step.read : step.all;
    const Attention* op = std::get_if<Attention>(&stages[i].operation);
    if (!op || set.count == 0) continue;
    scratch = std::max(scratch, kernels_.attention_scratch(attention_args(step, set, *op), threads_.count()));
  }
  if (scratch > attention_scratch_.size()) attention_scratch_ = Region(scratch, Pages::Small);
}

Program::RowSet Program::all_rows(const BatchView& batch) const {
  return {batch.token_ids.rows, batch.positions.data, batch.sequences.data, false};
}

// The rows that want logits, as a batch of their own.
void Program::choose_read_rows(Step& step) const {
  const BatchView& batch = step.batch;
  for (int64_t r = 0; r < step.logit_rows; ++r) {
    step.read_positions.push_back(batch.positions[batch.logit_rows[r]]);
    step.read_sequences.push_back(batch.sequences[batch.logit_rows[r]]);
  }
  step.read = {step.logit_rows, step.read_positions.data(), step.read_sequences.data(), false};
  divide_rows(step.read);
}

// Parts of equal size, as many for each thread; the products work on rows in blocks of 4 or 6.
void Program::divide_rows(RowSet& set) const {
  constexpr int64_t unit = 4;
  const int64_t threads = threads_.count();
  set.many = set.count >= kManyRows * threads;
  set.repeats = threads > 1 && set.count <= kRepeatedRows && set.count * threads <= max_tokens_;
  const int64_t turns = (set.count + kPartRows * threads - 1) / (kPartRows * threads);
  if (!set.many) return;
  const int64_t even = (set.count + turns * threads - 1) / (turns * threads);
  set.part_rows = (even + unit - 1) / unit * unit;
  set.parts = (set.count + set.part_rows - 1) / set.part_rows;
}

void Program::execute(Step& step, Threads::Member& member) {
  Meter meter(profiling_ && member.thread() == 0);
  const size_t count = few_rows_.stages().size();
  if (!step.gathers) return run_stages(step, step.all, 0, count, member, meter);
  const size_t gather = static_cast<size_t>(gather_);
  run_stages(step, step.all, 0, gather, member, meter);
  if (step.read.count == 0) return;
  member.phase([&](int share) {
    if (share == 0) move_up(step);
  });
  meter.charge(seconds_[few_rows_.stages()[gather].operation.index()]);
  run_stages(step, step.read, gather + 1, count, member, meter);
}

// A phase goes from one barrier to the next.
void Program::run_stages(Step& step, const RowSet& set, size_t begin, size_t end, Threads::Member& member,
                         Meter& meter) {
  const std::vector<Stage>& stages = this->stages(set);
  for (size_t i = begin, next; i < end; i = next) {
    next = i + 1;
    while (next < end && !stages[next].barrier) ++next;
    member.phase([&](int share) { run_phase(step, set, i, next, share, meter); });
    meter.charge(waited_[stages[next - 1].operation.index()]);
  }
}

// One share of it.
void Program::run_phase(Step& step, const RowSet& set, size_t begin, size_t end, int thread, Meter& meter) {
  const std::vector<Stage>& stages = this->stages(set);
  for (size_t i = begin, next; i < end; i = next) {
    next = i + 1;
    if (stages[i].by_rows) {
      while (next < end && stages[next].by_rows) ++next;
      run_rows(step, set, i, next, thread, meter);
    } else {
      const int64_t own = set.repeats ? thread * set.count : 0;
      run_stage(step, stages[i], {set, {0, set.count}, 0, thread, threads_.count(), step.first_turn + i, own}, meter);
    }
  }
}

// Stages on the thread's own rows; with many rows, on one part after the other, as long as there are any.
void Program::run_rows(Step& step, const RowSet& set, size_t begin, size_t end, int thread, Meter& meter) {
  const std::span<const Stage> stages(&this->stages(set)[begin], end - begin);
  if (!set.many) {
    const int64_t own = set.repeats ? thread * set.count : 0;
    const Part part{set, share(set.count, thread, threads_.count()), 0, 0, 1, 0, own};
    for (const Stage& stage : stages) claim(stage, part);
    for (const Stage& stage : stages) run_stage(step, stage, part, meter);
    return;
  }
  std::atomic<int64_t>& next = step.next_part[begin];
  for (int64_t p = next++; p < set.parts; p = next++) {
    const int64_t first = p * set.part_rows;
    run_part(step, stages, {set, {first, std::min(first + set.part_rows, set.count)}, first, 0, 1, 0}, meter);
  }
}

// Where prepared rows go, the other threads have read the last ones: this one must get each line back before it may
// write to it, which takes long where the processors share no cache, and too much is stored into a line for many to be
// asked for at once. So a byte of each is written ahead. (The instruction that prefetches to write does nothing on
// Zen 4.)
void Program::claim(const Stage& stage, const Part& part) const {
  const PrepareRows* op = std::get_if<PrepareRows>(&stage.operation);
  if (!op || part.set.repeats || threads_.count() == 1) return;
  constexpr size_t line = 64;
  const size_t bytes = (part.rows.end - part.rows.begin) * kernels_.row_bytes(op->form, op->columns);
  volatile uint8_t* const rows = prepared_row(part.set, op->form, op->columns, part.rows.begin);
  for (size_t i = 0; i < bytes; i += line) rows[i] = 0;
}

// Between products a few rows at a time pass through all stages, so that they stay in the first-level cache.
void Program::run_part(Step& step, std::span<const Stage> stages, const Part& part, Meter& meter) {
  const auto is_product = [&](size_t i) { return std::holds_alternative<Linear>(stages[i].operation); };
  for (size_t i = 0, end; i < stages.size(); i = end) {
    end = i + 1;
    while (!is_product(i) && end < stages.size() && !is_product(end)) ++end;
    const int64_t size = end - i == 1 ? part.rows.end - part.rows.begin : kRowsAtOnce;
    for (int64_t row = part.rows.begin; row < part.rows.end; row += size) {
      Part some = part;
      some.rows = {row, std::min(row + size, part.rows.end)};
      for (size_t s = i; s < end; ++s) run_stage(step, stages[s], some, meter);
    }
  }
}

void Program::run_stage(Step& step, const Stage& stage, const Part& part, Meter& meter) {
  std::visit([&](const auto& operation) { apply(step, operation, part); }, stage.operation);
  meter.charge(seconds_[stage.operation.index()]);
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
