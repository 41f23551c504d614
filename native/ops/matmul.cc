// Matrix products: which form a format's rows take, and the entries of the table of kernels.
#include "matmul.h"

namespace legato::LEGATO_ISA {
namespace {

RowForm row_form(Format format) {
  if (is_quantised(format)) return RowForm::Q8;
#if defined(__AVX512BF16__)
  if (format == Format::BF16) return RowForm::BF16;
#endif
  return RowForm::F32;
}

void matmul(const Matrix& matrix, const void* prepared, int64_t rows, int64_t tile_begin, int64_t tile_end, float* out,
            int64_t out_stride, const float* bias, bool accumulate) {
  const Target target{out, out_stride, bias, accumulate};
  const int64_t bytes = (int64_t)row_bytes(row_form(matrix.format), matrix.columns);
  const auto product = is_quantised(matrix.format) ? matmul_quantised : matmul_float;
  product(matrix, (const uint8_t*)prepared, bytes, rows, tile_begin, tile_end, target);
}

}  // namespace

void fill_matmul(Kernels& kernels) {
  kernels.row_form = row_form;
  kernels.row_bytes = row_bytes;
  kernels.prepare_rows = prepare_rows;
  kernels.matmul = matmul;
  kernels.matrix_row = matrix_row;
}

}  // namespace legato::LEGATO_ISA
