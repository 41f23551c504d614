// Each operator file adds its functions to the table of the instruction set it is compiled for.
//
// Everything under ops/ but pack*, quantise* and reference* is compiled once per instruction set, with LEGATO_ISA
// naming the set. Only the matrix products (matmul*, matrix*, prepare*) and attention gain from avx512_vnni and
// avx512_bf16; these two sets take the other operators from avx512, named by LEGATO_BASE.
//
// Such a file keeps all its code in namespace legato::LEGATO_ISA or an anonymous namespace and uses no STL template and
// no inline function shared with another file: the linker keeps one copy of those, perhaps the one with instructions
// that this CPU does not have. A test looks for such symbols.
#pragma once
#include "../include/kernels.h"

#if !defined(LEGATO_ISA) || !defined(LEGATO_BASE)
#error "LEGATO_ISA and LEGATO_BASE must name the instruction set this file is compiled for"
#endif

namespace legato::LEGATO_ISA {

void fill(Kernels&);  // everything: table.cc
void fill_matmul(Kernels&);
void fill_attention(Kernels&);

}  // namespace legato::LEGATO_ISA

namespace legato::LEGATO_BASE {

void fill_sample(Kernels&);
void fill_norm(Kernels&);
void fill_rope(Kernels&);
void fill_activation(Kernels&);  // gated, add, scale
void fill_kv(Kernels&);

}  // namespace legato::LEGATO_BASE
