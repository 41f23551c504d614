// Stages: what all threads execute together, one after the other, and where they must wait for each other.
//
// Operators that treat each row alone give each thread the same contiguous share of the rows, so a thread may run
// several of them without waiting: it only reads what it wrote itself. Matrix products and attention read all rows.
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

using Operation = std::variant<Embed, RopeRows, RmsNorm, HeadNorm, PrepareRows, Linear, Rope, KvWrite, Attention, Gated,
                               Add, HeadRows, Logits, Sample>;
inline constexpr const char* kOperationNames[] = {"embed",  "rope_rows", "rms_norm", "head_norm", "prepare",
                                                  "linear", "rope",      "kv_write", "attention", "gated",
                                                  "add",    "head_rows", "logits",   "sample"};

struct Stage {
  Operation operation;
  bool barrier;  // wait for all threads first
};

// Something that stages read and write. Columns matter for buffers only.
struct Resource {
  enum Kind { Buffer, RopeTable, Prepared, KvCache, AttentionScratch, HeadPrepared, LogitRows } kind;
  int index;
};

// A thread touches its own rows of a resource (`rows`), or any of it.
struct Access {
  Resource resource;
  bool rows, write;
  int64_t begin = 0, end = 1;  // columns
};

// Appends stages, with a barrier where a stage meets another thread's work since the last barrier.
class Plan {
 public:
  void append(Operation operation, std::vector<Access> accesses);
  const std::vector<Stage>& stages() const { return stages_; }

 private:
  std::vector<Stage> stages_;
  std::vector<Access> since_barrier_;
};

}  // namespace legato
