// The only place that branches on the instruction set. Compiled plainly: it runs on the oldest processor.
#include "dispatch.h"

#include <cstring>

#include "../include/kernels.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace legato {

// ops/table.cc, once per instruction set
namespace scalar {
void fill(Kernels&);
}
#if defined(__x86_64__)
namespace avx2 {
void fill(Kernels&);
}
#if !defined(LEGATO_NO_AVX512)
namespace avx512 {
void fill(Kernels&);
}
namespace avx512_vnni {
void fill(Kernels&);
}
namespace avx512_bf16 {
void fill(Kernels&);
}
#endif
#endif

namespace {

struct Isa {
  const char* name;
  void (*fill)(Kernels&);
};

constexpr Isa kIsas[] = {
    {"scalar", scalar::fill},
#if defined(__x86_64__)
    {"avx2", avx2::fill},
#if !defined(LEGATO_NO_AVX512)
    {"avx512", avx512::fill}, {"avx512_vnni", avx512_vnni::fill}, {"avx512_bf16", avx512_bf16::fill},
#endif
#endif
};
constexpr int kIsaCount = sizeof(kIsas) / sizeof(kIsas[0]);

#if defined(__x86_64__)
// Which register files the operating system saves on a context switch (XCR0).
unsigned saved_registers() {
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool all(unsigned value, unsigned bits) { return (value & bits) == bits; }

// How many entries of kIsas this machine can run: every set contains the ones before it.
int count_supported() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 1;
  constexpr unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
  if (!all(c, fma | osxsave | avx | f16c)) return 1;
  const unsigned saved = saved_registers();
  constexpr unsigned xmm_ymm = 0x6, zmm = 0xe0;
  if (!all(saved, xmm_ymm) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 1;
  constexpr unsigned avx2 = 1u << 5, bmi2 = 1u << 8;
  if (!all(b, avx2 | bmi2)) return 1;
  constexpr unsigned f = 1u << 16, dq = 1u << 17, cd = 1u << 28, bw = 1u << 30, vl = 1u << 31;
  if (!all(saved, zmm) || !all(b, f | dq | cd | bw | vl)) return 2;
  constexpr unsigned vnni = 1u << 11;
  if (!all(c, vnni)) return 3;
  constexpr unsigned bf16 = 1u << 5;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !all(a, bf16)) return 4;
  return 5;
}
#else
int count_supported() { return 1; }
#endif

int supported() {
  static const int count = count_supported() < kIsaCount ? count_supported() : kIsaCount;
  return count;
}

}  // namespace

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (int i = 0; i < supported(); ++i) names.push_back(kIsas[i].name);
  return names;
}

const Kernels* kernels(const char* isa) {
  static Kernels tables[kIsaCount];
  static const bool filled = [] {
    for (int i = 0; i < supported(); ++i) {
      kIsas[i].fill(tables[i]);
      tables[i].isa = kIsas[i].name;
    }
    return true;
  }();
  (void)filled;
  for (int i = 0; i < supported(); ++i) {
    if (std::strcmp(isa, kIsas[i].name) == 0) return &tables[i];
  }
  return nullptr;
}

}  // namespace legato
