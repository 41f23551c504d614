#include "reference_elementwise.h"

#include <cmath>

namespace legato::reference {

std::vector<double> rms_norm(const float* x, const float* weight, int64_t n, double eps) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
  std::vector<double> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(x[i] * factor * weight[i]);
  return out;
}

std::vector<double> rope(const float* x, const float* cos, const float* sin, int64_t rotary_dim, bool interleaved) {
  std::vector<double> out(static_cast<size_t>(rotary_dim));
  const int64_t half = rotary_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const int64_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + half;
    const double a = x[first], b = x[second], c = cos[i], s = sin[i];
    out[static_cast<size_t>(first)] = a * c - b * s;
    out[static_cast<size_t>(second)] = b * c + a * s;
  }
  return out;
}

namespace {

double activate(double x, int activation) {
  switch (activation) {
    case 0:
      return x / (1 + std::exp(-x));
    case 1:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    default:
      return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
  }
}

}  // namespace

std::vector<double> gated(const float* gate, const float* up, int64_t n, int activation) {
  std::vector<double> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(activate(gate[i], activation) * up[i]);
  return out;
}

std::vector<double> scale(const float* x, int64_t n, double factor, double softcap) {
  std::vector<double> out;
  for (int64_t i = 0; i < n; ++i) {
    const double scaled = x[i] * factor;
    out.push_back(softcap > 0 ? softcap * std::tanh(scaled / softcap) : scaled);
  }
  return out;
}

}  // namespace legato::reference
