// Which instruction sets exist, and which of them this processor and operating system can run.
#pragma once
#include <string>
#include <vector>

namespace legato {

// Worst first, out of: scalar avx2 avx512 avx512_vnni avx512_bf16.
std::vector<std::string> supported_isas();

}  // namespace legato
