// Norm, rotation and activations as their definitions say, in double precision: what tests compare with.
#pragma once
#include <cstdint>
#include <vector>

namespace legato::reference {

std::vector<double> rms_norm(const float* x, const float* weight, int64_t n, double eps);
std::vector<double> rope(const float* x, const float* cos, const float* sin, int64_t rotary_dim, bool interleaved);
std::vector<double> gated(const float* gate, const float* up, int64_t n, int activation);
std::vector<double> scale(const float* x, int64_t n, double factor, double softcap);

}  // namespace legato::reference
