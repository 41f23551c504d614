// Stages: what all threads execute together, one after the other, and where they must wait for each other.
//
// Operators that treat each row alone are run one after the other on a part of the rows by one thread, without waiting:
// it only reads what it wrote itself. Attention reads the rows of others. A matrix product can be shared either way: by
// outputs when there are few rows, so that the weights are read once; by rows when there are many, so that a part of
// the rows passes through a whole layer in one processor's cache, and the threads hardly ever meet. With one or two
// rows, each thread makes them ready for a product itself: that takes no longer than waiting for another thread to do
// it, and what it made lies in its own cache.
#pragma once
#include <cstdint>
#include <variant>
#include <vector>

#include "include/kernels.h"

namespace legato {

// Numbers below are indices of the program's buffers, vectors, matrices and tables; -1: none.
struct Embed {
  int table, out;
  float scale;
};
struct RopeRows {  // cos and sin of the step's positions
  int table;
};
struct RmsNorm {
  int x, weight, out;
  float eps;
};
struct HeadNorm {
  int x, weight;
  float eps;
  int offset, heads, head_dim;
};
struct PrepareRows {  // into the form that the next matrix products want
  int x;
  RowForm form;
  int64_t columns;
};
struct Linear {
  int matrix, out, bias;
  bool accumulate;
  int out_offset;
  RowForm form;
  int64_t read_tiles;  // the first tiles: only rows that a Gather will keep are computed
};
struct Rope {
  int x, table, offset, heads, head_dim, rotary_dim;
  bool interleaved;
};
struct KvWrite {
  int layer, k, k_offset, v, v_offset;
};
struct Attention {
  int layer, q, q_offset, out, heads;
  float scale, softcap;
  int window;
  int phase;
};
struct Gather {              // from here on the step has only the rows that want logits
  std::vector<int> buffers;  // whose rows are still needed
};
struct Gated {
  int x, gate_offset, up_offset, out, activation;
};
struct Add {
  int x, y;
};
struct HeadRows {  // gathers, norms and prepares the rows that want logits
  int x, weight;
  float eps;
  RowForm form;
};
struct Logits {
  int matrix, bias;
  float scale, softcap;
  RowForm form;
};
struct Sample {};

using Operation = std::variant<Embed, RopeRows, RmsNorm, HeadNorm, PrepareRows, Linear, Rope, KvWrite, Gather,
                               Attention, Gated, Add, HeadRows, Logits, Sample>;
inline constexpr const char* kOperationNames[] = {"embed",  "rope_rows", "rms_norm",  "head_norm", "prepare",
                                                  "linear", "rope",      "kv_write",  "gather",    "attention",
                                                  "gated",  "add",       "head_rows", "logits",    "sample"};

struct Stage {
  Operation operation;
  bool by_rows;  // shared by rows of the batch; else each thread does its part of everything, or all of it for itself
  bool barrier;  // wait for all threads first
};

// Something that stages read and write. Columns matter for buffers only.
struct Resource {
  enum Kind { Buffer, RopeTable, Prepared, KvCache, AttentionScratch, HeadPrepared, LogitRows } kind;
  int index;
};

// A stage touches only its own rows of a resource (`rows`), or any of it.
struct Access {
  Resource resource;
  bool rows, write;
  int64_t begin = 0, end = 1;  // columns
};

// Appends stages, with a barrier where a stage meets another thread's work since the last barrier.
class Plan {
 public:
  // fixed_shares: a thread has the same rows in all stages. Else a thread takes the next part of the rows, and only
  // stages that follow each other directly have the same.
  explicit Plan(bool fixed_shares) : fixed_shares_(fixed_shares) {}
  void append(Operation operation, const std::vector<Access>& accesses);
  const std::vector<Stage>& stages() const { return stages_; }
  size_t size() const { return stages_.size(); }

 private:
  bool fixed_shares_;
  std::vector<Stage> stages_;
  std::vector<Access> since_barrier_;
};

}  // namespace legato
