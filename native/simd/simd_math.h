// Functions built from lane operations only, so that every instruction set gives the same bits.
#pragma once

namespace legato::LEGATO_ISA {

// e^x, relative error < 3e-7. x below -87.33 (and -inf) gives 0, above 88.72 +inf; NaN stays NaN.
// Range reduction x = n ln2 + r with |r| <= ln2 / 2 (Cody & Waite, two-part ln2), then a degree-6 polynomial.
inline F32x16 exp(F32x16 x) {
  const F32x16 lowest = F32x16::splat(-87.33654f), highest = F32x16::splat(88.72283f);
  const F32x16 n = round(x * F32x16::splat(1.44269504f));
  F32x16 r = fma(n, F32x16::splat(-0.693359375f), x);
  r = fma(n, F32x16::splat(2.12194440e-4f), r);
  F32x16 p = F32x16::splat(1.9875691500e-4f);  // coefficients: Cephes expf
  p = fma(p, r, F32x16::splat(1.3981999507e-3f));
  p = fma(p, r, F32x16::splat(8.3334519073e-3f));
  p = fma(p, r, F32x16::splat(4.1665795894e-2f));
  p = fma(p, r, F32x16::splat(1.6666665459e-1f));
  p = fma(p, r, F32x16::splat(5.0000001201e-1f));
  p = fma(p, r * r, r + F32x16::splat(1.0f));
  // 2^n in two factors, because n = 128 has no representation as one float.
  const I32x16 whole = to_int(n), half = shift_right<1>(whole), bias = I32x16::splat(127);
  const F32x16 scale1 = bits_to_float(shift_left<23>(half + bias));
  const F32x16 scale2 = bits_to_float(shift_left<23>(whole - half + bias));
  F32x16 y = p * scale1 * scale2;
  y = select(less(x, lowest), F32x16::zero(), y);
  y = select(less(highest, x), F32x16::splat(__builtin_inff()), y);
  return select(equal(x, x), y, x);
}

// tanh(x) = 1 - 2 / (e^2x + 1); for |x| < 0.25 the odd Taylor polynomial, where that form would cancel.
inline F32x16 tanh(F32x16 x) {
  const F32x16 one = F32x16::splat(1.0f), two = F32x16::splat(2.0f);
  const F32x16 wide = one - two / (exp(x * two) + one);
  const F32x16 s = x * x;
  F32x16 p = F32x16::splat(62.0f / 2835.0f);
  p = fma(p, s, F32x16::splat(-17.0f / 315.0f));
  p = fma(p, s, F32x16::splat(2.0f / 15.0f));
  p = fma(p, s, F32x16::splat(-1.0f / 3.0f));
  const F32x16 small = fma(x * s, p, x);
  return select(less(abs(x), F32x16::splat(0.25f)), small, wide);
}

// bf16, in the upper half of each lane; the lower one is zero. To nearest even; a NaN stays one.
inline F32x16 round_to_bf16(F32x16 x) {
  const I32x16 bits = float_to_bits(x);
  const I32x16 up = bits + I32x16::splat(0x7fff) + (shift_right<16>(bits) & I32x16::splat(1));
  return select(equal(x, x), bits_to_float(up & I32x16::splat((int32_t)0xffff0000)), F32x16::splat(__builtin_nanf("")));
}

}  // namespace legato::LEGATO_ISA
