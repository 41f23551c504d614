// One instruction set's table of operators.
#include "fill.h"

namespace legato::LEGATO_ISA {

void fill(Kernels& table) {
  fill_matmul(table);
  fill_attention(table);
  fill_sample(table);
  fill_norm(table);
  fill_rope(table);
  fill_activation(table);
  fill_kv(table);
}

}  // namespace legato::LEGATO_ISA
