// 16 float lanes on every instruction set: one source per operator, the same bits everywhere.
//
// Included by files compiled once per instruction set with -DLEGATO_ISA=<name>. Everything lives in
// legato::LEGATO_ISA, so that no code built with wide instructions can be picked for an older CPU.
#pragma once
#include <cstdint>

#ifndef LEGATO_ISA
#error "compile with -DLEGATO_ISA=scalar|avx2|avx512|avx512_vnni|avx512_bf16"
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "simd_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "simd_avx2.h"
#else
#include "simd_scalar.h"
#endif

#include "simd_math.h"
