// A lowered model: its packed weights, buffers and KV pool, and a flat plan of operators run once a step.
//
// Methods throw std::invalid_argument, naming the argument, when something does not fit. Not thread-safe: one call
// at a time (run() refuses a second caller).
#pragma once
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "batch.h"
#include "include/kernels.h"
#include "kv_pool.h"
#include "memory.h"
#include "packed_weights.h"
#include "plan.h"
#include "threads.h"

namespace legato {

std::vector<std::string> format_names();

struct MatrixPart {
  int64_t rows, columns;
  const uint8_t* data;
  size_t bytes;
};

// Adds the time since the last charge to an account.
class Meter {
 public:
  explicit Meter(bool on) : on_(on), last_(on ? Clock::now() : Clock::time_point()) {}
  void charge(double& account) {
    if (!on_) return;
    const Clock::time_point now = Clock::now();
    account += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  const bool on_;
  Clock::time_point last_;
};

struct StepOutput {  // for each of the R logit rows
  std::vector<int32_t> tokens, ranks;
  std::vector<float> logprobs;
  int64_t top_columns = 0;
  std::vector<int32_t> top_ids;  // [R][top_columns]
  std::vector<float> top_logprobs;
  std::vector<uint64_t> hashes;
};

class Program {
 public:
  // `beside`: a program whose threads run this one too, whatever `threads` says; never both at once.
  Program(const std::string& isa, int threads, int64_t max_tokens, int64_t max_logit_rows,
          const Program* beside = nullptr);

  const char* isa() const { return kernels_.isa; }
  int threads() const { return threads_.count(); }

  // --- data ---
  int buffer(int64_t width);
  int vector(const float* values, int64_t count);
  int matrix(const std::string& format, const std::vector<MatrixPart>& parts);
  // A matrix that an earlier program of the same build packed: its bytes lie at `offset` of `weights`.
  int packed_matrix(std::shared_ptr<const PackedWeights> weights, const std::string& format, int64_t rows,
                    int64_t columns, int64_t offset);
  std::span<const uint8_t> packed(int matrix) const;  // what packed_matrix takes
  int rope_table(int inverse_frequencies, float scale);
  void kv_cache(int layers, int64_t blocks, int kv_heads, int head_dim, const std::string& type);
  int64_t kv_block_bytes() const;
  // For whoever keeps blocks, between steps only: the pool, if it has this block and it has so many bytes.
  const KvPool& kv_with(int64_t block, size_t bytes) const;
  int64_t weight_bytes() const { return weight_bytes_; }
  int matrix_count() const { return static_cast<int>(matrices_.size()); }
  int64_t kv_bytes_reserved() const { return kv_.bytes_reserved(); }

  // --- operators: src/legato/_native.pyi says what they do ---
  void embed(int table, int out, float scale);
  void rms_norm(int x, int weight, int out, float eps);
  void head_norm(int x, int weight, float eps, int offset, int heads, int head_dim);
  void linear(int x, int matrix, int out, int bias, bool accumulate, int out_offset, int64_t read_outputs = 0);
  void rope(const Rope& rope);
  void kv_write(const KvWrite& write);
  void gather(const std::vector<int>& buffers);
  void attention(Attention attention);
  void gated(int x, int gate_offset, int up_offset, int out, const std::string& activation);
  void add(int x, int y);
  void head(int x, int norm_weight, float eps, int matrix, float softcap, float scale, int bias);

  // --- a step: step.cc ---
  void check(const BatchView& batch) const;  // as run() does
  StepOutput run(const BatchView& batch);
  // Draws some of the logit rows of the last step again, whose tokens the masks that its batch has now do not allow:
  // the second draw of their soft masks. The rows of the result are those of run; rows not asked for are -1.
  StepOutput redraw(const BatchView& batch, const View<int32_t>& rows);
  int64_t logit_row_count() const { return logit_row_count_; }
  int64_t vocabulary() const { return head_matrix_ < 0 ? 0 : matrices_[head_matrix_].rows; }
  const float* logits() const { return reinterpret_cast<const float*>(logits_.data()); }  // [R][vocabulary]
  int64_t buffer_width(int buffer) const;
  const float* buffer_row(int buffer, int64_t row) const;
  int64_t max_tokens() const { return max_tokens_; }

  // Seconds of thread 0 by operator since the last call; "wait X" is its time at barriers after X. The first call
  // switches the measurement on.
  std::map<std::string, double> profile();

 private:
  struct Buffer {
    int64_t width, stride;  // floats
    Region memory;
    bool is_own = false;  // where stages are repeated each thread has rows of its own, one thread's after the other's
    float* row(int64_t t) const { return reinterpret_cast<float*>(memory.data()) + t * stride; }
  };
  struct RopeTable {
    int inverse_frequencies;
    float scale;
    int64_t half;   // angles in a row
    Region memory;  // [max_tokens][cos half, sin half]
    float* row(int64_t t) const { return reinterpret_cast<float*>(memory.data()) + t * 2 * half; }
  };
  struct PreparedRows {  // one for each RowForm, shared by the matrix products
    size_t row_bytes = 0;
    Region memory;
    int source = -1;  // the buffer whose rows it holds at this point of the plan
  };
  struct Step;     // the batch and its results while run() is at work
  struct RowSet {  // the rows that stages work on: those of the batch, or what a Gather kept of them
    int64_t count;
    const int32_t *positions, *sequences;
    bool many;  // products are shared by rows; a thread takes one part of the rows after the other
    int64_t part_rows = 0, parts = 0;
    bool repeats = false;  // each thread makes all rows ready for the products itself
  };
  struct Part {  // of a stage, for one call
    const RowSet& set;
    Share rows;           // of the set
    int64_t first;        // row of the part that these rows are from
    int thread, threads;  // of this stage; 0 of 1 when the stage is shared by rows
    uint64_t turn;        // the number of this stage in turns_
    int64_t own = 0;      // where the thread's rows of its own buffers begin
  };

  void plan(Operation operation, const std::vector<Access>& accesses);
  void find_own_buffers();
  void plan_repeated();
  float* row(int buffer, int64_t t, const Part& part) const {
    return buffers_[buffer].row(t + (buffers_[buffer].is_own ? part.own : 0));
  }
  Access columns(int buffer, int64_t begin, int64_t end, bool rows, bool write) const;
  Access whole(int buffer, bool rows, bool write) const;
  void check_columns(const char* name, int buffer, int64_t offset, int64_t width) const;
  const Buffer& buffer_at(const char* name, int index) const;
  void check_vector(const char* name, int index, int64_t length) const;
  const Matrix& matrix_at(const char* name, int index) const;
  void prepare(int x, RowForm form, int64_t columns);
  void check_kv_operators() const;

  void begin(Step& step);
  void divide_rows(RowSet& set) const;
  void choose_read_rows(Step& step) const;
  RowSet all_rows(const BatchView& batch) const;
  void execute(Step& step, Threads::Member& member);
  void run_stages(Step& step, const RowSet& set, size_t begin, size_t end, Threads::Member& member, Meter& meter);
  void run_phase(Step& step, const RowSet& set, size_t begin, size_t end, int thread, Meter& meter);
  void run_rows(Step& step, const RowSet& set, size_t begin, size_t end, int thread, Meter& meter);
  void claim(const Stage&, const Part&) const;
  void run_part(Step& step, std::span<const Stage> stages, const Part& part, Meter& meter);
  void run_stage(Step& step, const Stage& stage, const Part& part, Meter& meter);
  const std::vector<Stage>& stages(const RowSet& set) const {
    return (set.many ? many_rows_ : set.repeats ? repeated_ : few_rows_).stages();
  }
  AttentionArgs attention_args(const Step& step, const RowSet& set, const Attention& op) const;
  void apply(const Step&, const Embed&, const Part&) const;
  void apply(const Step&, const RopeRows&, const Part&) const;
  void apply(const Step&, const RmsNorm&, const Part&) const;
  void apply(const Step&, const HeadNorm&, const Part&) const;
  void apply(const Step&, const PrepareRows&, const Part&) const;
  void apply(const Step&, const Linear&, const Part&);
  template <class Work>
  void take_tiles(const Matrix& matrix, const Part& part, const Work& work);
  template <class Work>
  static void for_read_rows(const Step&, Share some, const Work& work);
  uint8_t* prepared_row(const RowSet&, RowForm, int64_t columns, int64_t begin) const;
  void apply(const Step&, const Rope&, const Part&) const;
  void apply(const Step&, const KvWrite&, const Part&) const;
  void apply(const Step&, const Gather&, const Part&) const {}  // execute() calls move_up
  void move_up(const Step&) const;
  void apply(const Step&, const Attention&, const Part&) const;
  void apply(const Step&, const Gated&, const Part&) const;
  void apply(const Step&, const Add&, const Part&) const;
  void apply(const Step&, const HeadRows&, const Part&) const;
  void apply(const Step&, const Logits&, const Part&);
  void apply(Step&, const Sample&, const Part&) const;
  SampleRow sample_row(const Step&, int64_t row) const;
  void draw(Step&, int64_t row, int thread) const;
  void clear(Step&);

  const Kernels& kernels_;
  const int64_t max_tokens_, max_logit_rows_;
  struct Team {
    explicit Team(int count) : threads(count, [this] { return populate(); }) {}
    bool populate();
    std::atomic<bool> is_running{false};
    std::mutex mutex;
    std::vector<std::weak_ptr<GrowingRegion>> pools;  // what idle threads look after
    Threads threads;                                  // last: they end before what they use
  };
  const std::shared_ptr<Team> team_;
  Threads& threads_;
  Turns turns_;
  uint64_t next_turn_ = 1;  // the number of the next stage
  std::vector<Buffer> buffers_;
  std::vector<std::vector<float>> vectors_;
  Arena weights_;
  std::vector<std::shared_ptr<const PackedWeights>> packed_weights_;  // what matrices lie in, besides weights_
  int64_t weight_bytes_ = 0;
  std::vector<Matrix> matrices_;
  std::vector<RopeTable> rope_tables_;
  std::vector<bool> rope_planned_;  // tables whose rows are already made at this point of the plan
  KvPool kv_;
  std::array<PreparedRows, 3> prepared_;
  // The same operators: products shared by outputs, by rows; by outputs of rows that each thread made ready itself.
  Plan few_rows_{true}, many_rows_{false}, repeated_{true};
  std::vector<std::vector<Access>> accesses_;  // of the operators
  int64_t gather_ = -1;                        // the stage that is a Gather
  int64_t input_vocabulary_ = 0;
  // head
  int head_matrix_ = -1;
  size_t head_row_bytes_ = 0;
  Region head_norm_, head_prepared_, logits_, sample_scratch_, attention_scratch_;
  size_t sample_scratch_bytes_ = 0;  // of one thread
  int64_t logit_row_count_ = 0;
  bool profiling_ = false;
  std::array<double, std::variant_size_v<Operation>> seconds_{}, waited_{};
};

}  // namespace legato
