// Each operator file adds its functions to the table of the instruction set it is compiled for.
//
// Everything under ops/ but pack*, reference* and quantise* is compiled once per instruction set, with LEGATO_ISA
// naming the set. Such a file keeps all its code in namespace legato::LEGATO_ISA or an anonymous namespace and uses
// no STL template and no inline function shared with another file: the linker keeps one copy of those, perhaps the
// one with instructions that this CPU does not have. A test looks for such symbols.
#pragma once
#include "../include/kernels.h"

#ifndef LEGATO_ISA
#error "LEGATO_ISA must name the instruction set this file is compiled for"
#endif

namespace legato::LEGATO_ISA {

void fill_matmul(Kernels&);
void fill_attention(Kernels&);
void fill_sample(Kernels&);
void fill_norm(Kernels&);
void fill_rope(Kernels&);
void fill_activation(Kernels&);  // gated, add
void fill_kv(Kernels&);

}  // namespace legato::LEGATO_ISA
