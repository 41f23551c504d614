// lanes.h in plain loops.
#pragma once

namespace legato::LEGATO_ISA {

inline constexpr int kWidth = 16;
using Vec = F32x16;
struct Four {
  int8_t v[4];
};
static inline Four broadcast_four(const int8_t* x) { return {{x[0], x[1], x[2], x[3]}}; }

struct Bytes {
  uint8_t v[64];
  static Bytes load(const uint8_t* p) {
    Bytes b;
    __builtin_memcpy(b.v, p, 64);
    return b;
  }
};
static inline Bytes low_nibbles(Bytes a) {
  for (int i = 0; i < 64; ++i) a.v[i] &= 15;
  return a;
}
static inline Bytes high_nibbles(Bytes a) {
  for (int i = 0; i < 64; ++i) a.v[i] >>= 4;
  return a;
}
template <int kShift, int kMask>
static inline Bytes with_bits(Bytes nibbles, Bytes plane) {
  for (int i = 0; i < 64; ++i) {
    const int moved = kShift >= 0 ? plane.v[i] << (kShift >= 0 ? kShift : 0) : plane.v[i] >> (kShift < 0 ? -kShift : 0);
    nibbles.v[i] = (uint8_t)(nibbles.v[i] | (moved & kMask));
  }
  return nibbles;
}
static inline Vec bytes_to_float(const uint8_t* p) {
  Vec r;
  for (int i = 0; i < 16; ++i) r.v[i] = (float)p[i];
  return r;
}
static inline Vec signed_bytes_to_float(const uint8_t* p) {
  Vec r;
  for (int i = 0; i < 16; ++i) r.v[i] = (float)(int8_t)p[i];
  return r;
}

template <int kMaxWeight, int kBiasShift>
struct Sum {
  int32_t total[16];
  void start(int32_t minus_sum) {
    for (int i = 0; i < 16; ++i) total[i] = kBiasShift >= 0 ? minus_sum * (1 << (kBiasShift >= 0 ? kBiasShift : 0)) : 0;
  }
  template <int i>
  void dot(Bytes w, Four x) {
    for (int n = 0; n < 16; ++n) {
      total[n] += w.v[4 * n] * x.v[0] + w.v[4 * n + 1] * x.v[1] + w.v[4 * n + 2] * x.v[2] + w.v[4 * n + 3] * x.v[3];
    }
  }
  Vec finish(int32_t) {
    Vec r;
    for (int i = 0; i < 16; ++i) r.v[i] = (float)total[i];
    return r;
  }
};

}  // namespace legato::LEGATO_ISA
