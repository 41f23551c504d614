// What the matmul files of one instruction set share.
#pragma once
#include "../simd/fetch.h"
#include "fill.h"
#include "lanes.h"
#include "packed.h"

namespace legato::LEGATO_ISA {

// Where a product goes: out[r * stride + n] for outputs n of the matrix.
struct Target {
  float* out;
  int64_t stride;
  const float* bias;  // null: none
  bool accumulate;
};

// Bytes of prepared rows that one pass over the weights works on: half of a 1 MiB second-level cache.
inline constexpr int64_t kRowCacheBytes = 512 * 1024;

// (sum + bias) + old, for `count` (1..lanes of V) outputs.
template <class V>
static inline void write_lanes(V sum, float* out, const float* bias, bool accumulate, int lanes, int64_t count) {
  if (count >= lanes) {
    if (bias) sum = sum + V::load(bias);
    if (accumulate) sum = sum + V::load(out);
    sum.store(out);
  } else {
    if (bias) sum = sum + V::load_partial(bias, (int)count);
    if (accumulate) sum = sum + V::load_partial(out, (int)count);
    sum.store_partial(out, (int)count);
  }
}

// Rows of one pass, a multiple of `block` unless it is all of them.
static inline int64_t rows_per_pass(int64_t rows, int64_t row_bytes, int64_t block) {
  int64_t fit = kRowCacheBytes / row_bytes / block * block;
  if (fit < block) fit = block;
  return fit < rows ? fit : rows;
}

void matmul_quantised(const Matrix&, const uint8_t* prepared, int64_t row_bytes, int64_t rows, int64_t tile_begin,
                      int64_t tile_end, const Target&);
void matmul_float(const Matrix&, const uint8_t* prepared, int64_t row_bytes, int64_t rows, int64_t tile_begin,
                  int64_t tile_end, const Target&);
size_t row_bytes(RowForm, int64_t columns);
void prepare_rows(RowForm, const float* x, int64_t stride, int64_t rows, int64_t columns, void* out);
void matrix_row(const Matrix&, int64_t row, float* out);

}  // namespace legato::LEGATO_ISA
