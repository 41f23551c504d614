// Integer dot products with outputs in lanes: what matmul_quantised.cc needs beyond simd.h.
//
//   kWidth           outputs in one native register (16, or 8 with AVX2)
//   Vec              kWidth floats
//   Bytes            kWidth x 4 unsigned weights
//   Four             four consecutive signed inputs, the same in every lane
//   Sum<M, S>        kWidth exact int32 sums of weight * input over one group (or half a group)
//                      M: the largest weight; S >= 0: weights are biased by 1 << S, and start() or finish(), as suits
//                      the instructions, uses the negated sum of the inputs to undo that; dot<i>() is called in between
//                      with i = 0, 1, ... in order
// Every version gives the exact integer, so all have the same bits.
#pragma once
#include "../simd/simd.h"

#if defined(__AVX512BW__)
#include "lanes_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "lanes_avx2.h"
#else
#include "lanes_scalar.h"
#endif
