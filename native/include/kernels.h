// Plain views and one table of function pointers per instruction set.
//
// Every operator has ONE numeric definition, whatever the instruction set's vector width, the number of
// rows, tiles or threads: 16 logical lanes (kLanes) everywhere, accumulation over K ascending in one chain per
// output, reductions over lanes in the fixed order of simd's reduce_*. A row's numbers depend on that row alone.
#pragma once
#include <cstddef>
#include <cstdint>

namespace legato {

inline constexpr int kLanes = 16;
inline constexpr int kBlock = 16;   // positions in a KV block
inline constexpr int kKvGroup = 8;  // blocks that lie together: a tile of attention, when they follow each other
inline constexpr int kGroup = 32;   // inputs that share one activation scale in Q8 form

enum class Format : int32_t { F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, kCount };

// The form that a matrix product wants its input rows in.
//   F32:  float[K]                     (F32, F16 weights; BF16 weights where there is no bf16 dot)
//   BF16: uint16_t[K]                  (BF16 weights with the vdpbf16ps instruction)
//   Q8:   int8_t[K], float scale[K/32], int32_t sum[K/32] in one row record (layout private to matmul)
enum class RowForm : int32_t { F32, BF16, Q8 };

// Weights in the kernels' layout: tiles of 16 outputs in lanes, K consecutive. `rows` outputs (the last tile is
// padded with zeros), `columns` inputs. Layout inside a tile is private to matmul*.cc; all instruction sets share it.
struct Matrix {
  Format format;
  int64_t rows, columns;
  const uint8_t* data;  // 64-byte aligned
  int64_t tile_bytes;   // bytes of one tile of 16 outputs
};

enum class KvType : int32_t { F16, BF16, F32, I8 };

// Bytes of one block of K or V for one KV head.
static inline int64_t kv_head_bytes(KvType type, int64_t head_dim) {
  const int64_t padded = (head_dim + 15) / 16 * 16;
  if (type == KvType::I8) return padded * kBlock + kBlock * int64_t{4};
  if (type == KvType::BF16) return padded * kBlock * 2;
  return head_dim * kBlock * (type == KvType::F32 ? 4 : 2);
}

// One layer of the paged cache: its blocks in groups of kKvGroup, and in a group the parts of one head side by side, so
// that neighbours are read in a line. In a pool a head's values follow its keys, and the next head follows them.
//   K, V: [group][kv_head][block of the group][part of a head]
//   K's part: [head_dim][16 positions]            V's: [16 positions][head_dim]
// Where products are taken in pairs, these lie together, and head_dim is padded to D, a multiple of 16. BF16 (keys of
// an odd head_dim have one zero behind them; what lies in the rest of the padding is never used):
//   K: [D/2][16 positions][2]                     V: [8 pairs of positions][D][2]
// I8 stores a position's head as integers of -127..127 and one float scale, which depend on nothing else (what lies in
// the padding is never used):
//   K: [D/2][16 positions][2], scale[16]          V: [8 pairs of positions][D][2], scale[16]
struct KvLayer {
  KvType type;
  int32_t kv_heads, head_dim;
  uint8_t* k;
  uint8_t* v;
  int64_t blocks;
  int64_t group_stride;  // bytes from a group to the next, in k and in v: the layers of a group may lie together
  int64_t head_stride;   // bytes from a head of a group to the next, in k and in v

  // Bytes from k, or from v, to a block's part of a head.
  int64_t at(int64_t block, int64_t head) const {
    return block / kKvGroup * group_stride + head * head_stride + block % kKvGroup * kv_head_bytes(type, head_dim);
  }
};
inline constexpr int kMostInt8Dimensions = 512;  // so that sums of 16-bit times 8-bit products fit into 32 bits

struct AttentionArgs {
  const float* q;  // row t: q + t * q_stride, [heads][head_dim]
  int64_t q_stride;
  float* out;  // row t: out + t * out_stride, [heads][head_dim]
  int64_t out_stride;
  KvLayer kv;
  const int32_t* positions;     // [rows] absolute
  const int32_t* sequences;     // [rows] row of block_tables; rows of one sequence follow each other, ascending;
                                // positions between them may be missing
  const int32_t* block_tables;  // [sequences][table_stride]
  int64_t table_stride;
  int32_t rows, heads;
  int32_t window;        // 0: none
  float scale, softcap;  // softcap 0: none; else softcap * tanh(s / softcap)
};

// Sampling of one row; see SamplingBatch in batch.py for the meaning.
struct SampleRow {
  float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  int32_t top_k, forced, num_logprobs;
  uint64_t seed, draw_position;
  const int32_t* prompt_ids;
  int32_t prompt_count;
  const int32_t* output_ids;
  int32_t output_count;
  const int32_t* bias_ids;
  const float* bias_values;
  int32_t bias_count;
  const uint32_t* mask;      // null: all allowed
  const uint32_t* fallback;  // null: drawn under `mask`. Else drawn without one, and if `mask` lacks that token, again
                             // under this one
  uint32_t attempt = 0;      // which of its random numbers the first draw takes
};
// Keys and values of rows, each [kv_heads][head_dim]; strides in elements. Row r goes to slots[r].
struct KvRows {
  const float *k, *v;
  int64_t k_stride, v_stride;
  const int32_t* slots;
  int64_t rows;
};

struct SampleResult {
  int32_t token, rank;
  float logprob;
  int32_t* top_ids;  // [num_logprobs] or null
  float* top_logprobs;
};

struct Kernels {
  const char* isa;
  // --- matmul.cc ---
  RowForm (*row_form)(Format);
  size_t (*row_bytes)(RowForm, int64_t columns);  // multiple of 64
  // rows of x (float, stride in elements) -> records of row_bytes each
  void (*prepare_rows)(RowForm, const float* x, int64_t stride, int64_t rows, int64_t columns, void* out);
  // out[r * out_stride + n] = (accumulate ? old : 0) + sum_k + bias[n] for tiles [tile_begin, tile_end) of 16
  // outputs; bias may be null. Never writes outputs >= matrix.rows. Any number of rows >= 1.
  // The kernel blocks for the caches itself; the order of the sum: (sum over k) + bias, then + old.
  void (*matmul)(const Matrix&, const void* prepared, int64_t rows, int64_t tile_begin, int64_t tile_end, float* out,
                 int64_t out_stride, const float* bias, bool accumulate);
  // One row of the matrix as float (embedding look-up).
  void (*matrix_row)(const Matrix&, int64_t row, float* out);
  // --- norm.cc, rope.cc, activation.cc, kv.cc ---
  void (*rms_norm)(const float* x, const float* weight, float* out, int64_t n, float eps);
  void (*rope)(float* x, const float* cos, const float* sin, int32_t rotary_dim, bool interleaved);  // one head
  void (*gated)(const float* gate, const float* up, float* out, int64_t n,
                int32_t activation);  // 0 silu 1 gelu_tanh 2 gelu
  void (*add)(float* x, const float* y, int64_t n);
  void (*scale)(float* x, int64_t n, float factor,
                float softcap);  // x *= factor; softcap > 0: softcap * tanh(x / softcap)
  void (*kv_write)(const KvLayer&, const KvRows&);
  // --- attention.cc ---
  // Runs on every thread at once. phase 0 computes, phase 1 (after a barrier) merges partitions of long contexts.
  // `scratch` is shared by the threads, attention_scratch bytes.
  size_t (*attention_scratch)(const AttentionArgs&, int threads);
  void (*attention)(const AttentionArgs&, void* scratch, int phase, int thread, int threads);
  // --- sample.cc ---
  size_t (*sample_scratch)(int64_t vocab);  // bytes for one thread
  void (*sample)(const float* logits, int64_t vocab, const SampleRow&, SampleResult&, void* scratch);
  uint64_t (*hash_row)(const float* logits, int64_t vocab);
};

// Packing is plain portable code (ops/pack.cc): done once, the same bytes for every instruction set.
int64_t packed_tile_bytes(Format, int64_t columns);
// source: `rows` rows of the checkpoint's bytes; writes tiles [tile_begin, tile_end).
void pack(Format, const uint8_t* source, int64_t rows, int64_t columns, int64_t tile_begin, int64_t tile_end,
          uint8_t* out);
int64_t source_row_bytes(Format, int64_t columns);  // -1 if columns is not a multiple of the format's block

// cpu/dispatch.cc: the only place that branches on the instruction set. Null if unknown or not supported here.
const Kernels* kernels(const char* isa);

}  // namespace legato
