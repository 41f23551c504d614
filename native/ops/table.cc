// One instruction set's table of operators.
#include "fill.h"

namespace legato::LEGATO_ISA {

void fill(Kernels& table) {
  fill_matmul(table);
  fill_attention(table);
  LEGATO_BASE::fill_sample(table);
  LEGATO_BASE::fill_norm(table);
  LEGATO_BASE::fill_rope(table);
  LEGATO_BASE::fill_activation(table);
  LEGATO_BASE::fill_kv(table);
}

}  // namespace legato::LEGATO_ISA
