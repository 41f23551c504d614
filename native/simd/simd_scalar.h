// F32x16, I32x16 and Mask16 as plain arrays: for any CPU, and the same bits as the wide versions.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace legato::LEGATO_ISA {

using Mask16 = uint16_t;  // bit i: lane i

// binary16 -> binary32, exact.
static inline float half_to_float(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u, mantissa = h & 0x3ffu;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0u);  // NaN becomes quiet, as in hardware
  } else if (exponent != 0) {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  } else {
    const float magnitude = (float)mantissa * 0x1p-24f;  // subnormal
    std::memcpy(&bits, &magnitude, 4);
    bits |= sign;
  }
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

// binary32 -> binary16, to nearest even.
static inline uint16_t float_to_half(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (bits >> 13 & 0x1ffu));
  if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);  // rounds to infinity
  if (bits < 0x38800000u) {                                    // subnormal or zero
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    return (uint16_t)(sign | (uint16_t)std::nearbyintf(magnitude * 0x1p24f));
  }
  bits += 0xfffu + (bits >> 13 & 1u);
  return (uint16_t)(sign | (uint16_t)((bits - 0x38000000u) >> 13));
}

struct I32x16 {
  int32_t v[16];
  static I32x16 splat(int32_t x) {
    I32x16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = x;
    return r;
  }
  static I32x16 load(const int32_t* p) {
    I32x16 r;
    std::memcpy(r.v, p, 64);
    return r;
  }
  void store(int32_t* p) const { std::memcpy(p, v, 64); }
};

struct F32x16 {
  float v[16];
  static F32x16 zero() { return splat(0.0f); }
  static F32x16 splat(float x) {
    F32x16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = x;
    return r;
  }
  static F32x16 load(const float* p) {
    F32x16 r;
    std::memcpy(r.v, p, 64);
    return r;
  }
  static F32x16 load_partial(const float* p, int n) {
    F32x16 r = zero();
    for (int i = 0; i < n; ++i) r.v[i] = p[i];
    return r;
  }
  static F32x16 load_f16(const uint16_t* p) {
    F32x16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = half_to_float(p[i]);
    return r;
  }
  static F32x16 load_bf16(const uint16_t* p) {
    F32x16 r;
    for (int i = 0; i < 16; ++i) {
      const uint32_t bits = (uint32_t)p[i] << 16;
      std::memcpy(&r.v[i], &bits, 4);
    }
    return r;
  }
  void store(float* p) const { std::memcpy(p, v, 64); }
  void store_partial(float* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }
  void store_f16(uint16_t* p) const {
    for (int i = 0; i < 16; ++i) p[i] = float_to_half(v[i]);
  }
};

#define LEGATO_LANEWISE(R, A, NAME, EXPR) \
  inline R NAME(A a, A b) {               \
    R r;                                  \
    for (int i = 0; i < 16; ++i) {        \
      const auto x = a.v[i], y = b.v[i];  \
      r.v[i] = (EXPR);                    \
    }                                     \
    return r;                             \
  }
LEGATO_LANEWISE(I32x16, I32x16, operator+, (int32_t)((uint32_t)x + (uint32_t)y))
LEGATO_LANEWISE(I32x16, I32x16, operator-, (int32_t)((uint32_t)x - (uint32_t)y))
LEGATO_LANEWISE(I32x16, I32x16, operator&, x& y)
LEGATO_LANEWISE(I32x16, I32x16, operator|, x | y)
LEGATO_LANEWISE(F32x16, F32x16, operator+, x + y)
LEGATO_LANEWISE(F32x16, F32x16, operator-, x - y)
LEGATO_LANEWISE(F32x16, F32x16, operator*, x* y)
LEGATO_LANEWISE(F32x16, F32x16, operator/, x / y)
LEGATO_LANEWISE(F32x16, F32x16, max, x > y ? x : y)
LEGATO_LANEWISE(F32x16, F32x16, min, x < y ? x : y)
#undef LEGATO_LANEWISE

template <int N>
inline I32x16 shift_left(I32x16 a) {
  for (int i = 0; i < 16; ++i) a.v[i] = (int32_t)((uint32_t)a.v[i] << N);
  return a;
}
template <int N>
inline I32x16 shift_right(I32x16 a) {
  for (int i = 0; i < 16; ++i) a.v[i] >>= N;
  return a;
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  for (int i = 0; i < 16; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
  return c;
}
inline F32x16 abs(F32x16 a) {
  for (int i = 0; i < 16; ++i) a.v[i] = __builtin_fabsf(a.v[i]);
  return a;
}
inline F32x16 round(F32x16 a) {
  for (int i = 0; i < 16; ++i) a.v[i] = __builtin_nearbyintf(a.v[i]);
  return a;
}
inline F32x16 floor(F32x16 a) {
  for (int i = 0; i < 16; ++i) a.v[i] = __builtin_floorf(a.v[i]);
  return a;
}
inline Mask16 less(F32x16 a, F32x16 b) {
  unsigned m = 0;
  for (int i = 0; i < 16; ++i) m |= (unsigned)(a.v[i] < b.v[i]) << i;
  return (Mask16)m;
}
inline Mask16 equal(F32x16 a, F32x16 b) {
  unsigned m = 0;
  for (int i = 0; i < 16; ++i) m |= (unsigned)(a.v[i] == b.v[i]) << i;
  return (Mask16)m;
}
inline F32x16 select(Mask16 m, F32x16 a, F32x16 b) {
  for (int i = 0; i < 16; ++i) b.v[i] = m >> i & 1 ? a.v[i] : b.v[i];
  return b;
}
inline I32x16 to_int(F32x16 a) {
  I32x16 r;
  for (int i = 0; i < 16; ++i) {
    const float x = __builtin_nearbyintf(a.v[i]);  // out of range and NaN: INT32_MIN, as in hardware
    r.v[i] = x >= -0x1p31f && x < 0x1p31f ? (int32_t)x : INT32_MIN;
  }
  return r;
}
inline F32x16 to_float(I32x16 a) {
  F32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = (float)a.v[i];
  return r;
}
inline F32x16 bits_to_float(I32x16 a) {
  F32x16 r;
  std::memcpy(r.v, a.v, 64);
  return r;
}
inline I32x16 float_to_bits(F32x16 a) {
  I32x16 r;
  std::memcpy(r.v, a.v, 64);
  return r;
}

inline F32x16 every_second(F32x16 a, F32x16 b, int first) {
  F32x16 r;
  for (int i = 0; i < 8; ++i) {
    r.v[i] = a.v[2 * i + first];
    r.v[i + 8] = b.v[2 * i + first];
  }
  return r;
}
inline F32x16 evens(F32x16 a, F32x16 b) { return every_second(a, b, 0); }
inline F32x16 odds(F32x16 a, F32x16 b) { return every_second(a, b, 1); }

inline float reduce_add(F32x16 a) {
  for (int step = 8; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) a.v[i] = a.v[i] + a.v[i + step];
  }
  return a.v[0];
}
inline float reduce_max(F32x16 a) {
  for (int step = 8; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) a.v[i] = a.v[i] > a.v[i + step] ? a.v[i] : a.v[i + step];
  }
  return a.v[0];
}

}  // namespace legato::LEGATO_ISA
