// Attention as its definition says, in double precision: what tests compare the operator with.
#pragma once
#include "../include/kernels.h"

namespace legato {

// result, bound: [rows][heads][head_dim]. `bound` is how far a computation in floats may be from `result`, by the
// errors of the dot products, the weights and the sums; a.out is not written.
void reference_attention(const AttentionArgs& a, double* result, double* bound);

}  // namespace legato
