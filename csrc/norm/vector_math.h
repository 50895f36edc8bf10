// Elementary functions of a vector: polynomials for float, a few units in the last place off; the
// C library, value by value, for double. NaN gives NaN, and nothing here is out of any range.
#pragma once
#include <math.h>

#include "norm/element.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

using IntV = Pack<float>::I;
using DoubleV = Pack<double>::V;

template <class V>
L1BN_INLINE V all_of(double value) {
  return decltype(V{}[0] + 0)(value) - V{};
}

L1BN_INLINE FloatV magnitude(FloatV x) { return FloatV(IntV(x) & 0x7fffffff); }
L1BN_INLINE DoubleV magnitude(DoubleV x) {
  return DoubleV(Pack<double>::I(x) & 0x7fffffffffffffffLL);
}

// x between two numbers; NaN stays.
template <class V>
L1BN_INLINE V limited(V x, double low, double high) {
  using A = decltype(x[0] + 0);
  return smaller<A>(all_of<V>(high), larger<A>(all_of<V>(low), x));
}

// c[0] + c[1]·x + c[2]·x² and so on.
template <int N>
L1BN_INLINE FloatV polynomial(FloatV x, const float (&c)[N]) {
  FloatV sum = c[N - 1] - FloatV{};
  L1BN_UNROLL_ALL
  for (int i = N - 2; i >= 0; --i) sum = sum * x + c[i];
  return sum;
}

// e^x = scale · (1 + rest) for x <= 0, where scale is a power of two, or 0 where e^x is no normal
// number.
struct Exponential {
  FloatV rest, scale;

  explicit L1BN_INLINE Exponential(FloatV x) {
    x = larger<float>(all_of<FloatV>(-88), x);
    const FloatV shifted = x * 1.44269504088896341f + 12582912.0f;  // the nearest integer, low bits
    const FloatV n = shifted - 12582912.0f;
    const FloatV r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    static const float c[] = {5.0000001201e-1f, 1.6666665459e-1f, 4.1665795894e-2f,
                              8.3334519073e-3f, 1.3981999507e-3f, 1.9875691500e-4f};
    rest = polynomial(r, c) * (r * r) + r;
    scale = FloatV((IntV(shifted) - (0x4b400000 - 127)) << 23);
  }
};

// e^x for x <= 0.
L1BN_INLINE FloatV exp_of(FloatV x) {
  const Exponential e(x);
  return e.rest * e.scale + e.scale;
}

// e^x - 1 for x <= 0, to full precision near 0.
L1BN_INLINE FloatV expm1_of(FloatV x) {
  const Exponential e(x);
  return e.rest * e.scale + (e.scale - 1.0f);
}

// log(1 + x) for -1 < x <= 0, to full precision near 0.
L1BN_INLINE FloatV log1p_of(FloatV x) {
  const FloatV u = x + 1.0f;
  // u = m · 2^k with m about between the roots of 1/2 and of 2.
  const IntV k = (IntV(u) - 0x3f3504f3) >> 23;
  const FloatV f = FloatV(IntV(u) - (k << 23)) - 1.0f;
  static const float c[] = {3.3333331174e-1f,  -2.4999993993e-1f, 2.0000714765e-1f,
                            -1.6668057665e-1f, 1.4249322787e-1f,  -1.2420140846e-1f,
                            1.1676998740e-1f,  -1.1514610310e-1f, 7.0376836292e-2f};
  const FloatV n = __builtin_convertvector(k, FloatV), square = f * f;
  const FloatV log =
      f + (polynomial(f, c) * f * square - n * 2.12194440e-4f - 0.5f * square) + n * 0.693359375f;
  // What rounding 1 + x lost comes back in the quotient.
  return (u == 1.0f) ? x : log * (x / (u - 1.0f));
}

L1BN_INLINE FloatV tanh_of(FloatV x) {
  const FloatV size = magnitude(x), square = x * x, t = exp_of(size * -2.0f);
  static const float c[] = {-3.33332819422e-1f, 1.33314422036e-1f, -5.37397155531e-2f,
                            2.06390887954e-2f, -5.70498872745e-3f};
  const FloatV large = (1.0f - t) / (1.0f + t);
  const FloatV with_sign = FloatV(IntV(large) | (IntV(x) & int32_t(0x80000000)));
  return (size < 0.625f) ? polynomial(square, c) * square * x + x : with_sign;
}

// erfc(x) for x >= 0 and its factor e^(-x²).
struct Tail {
  FloatV erfc, density;

  explicit L1BN_INLINE Tail(FloatV x) {
    density = exp_of(-x * x);
    static const float c[] = {1.880878699e-05f, 2.252368182e-01f,  2.300186455e-01f,
                              1.839060783e-01f, 2.491512299e-01f,  -3.098079376e-02f,
                              2.291227132e-01f, -2.764451317e-02f, -9.049741179e-02f,
                              3.166845813e-02f};
    erfc = polynomial(1.0f / (1.0f + x * 0.4f), c) * density;
  }
};

#define L1BN_BY_VALUE(name, function)                                            \
  L1BN_INLINE DoubleV name(DoubleV x) {                                          \
    for (int i = 0; i < Pack<double>::kWide; ++i) x[i] = function(double(x[i])); \
    return x;                                                                    \
  }
L1BN_BY_VALUE(exp_of, exp)
L1BN_BY_VALUE(expm1_of, expm1)
L1BN_BY_VALUE(log1p_of, log1p)
L1BN_BY_VALUE(tanh_of, tanh)
L1BN_BY_VALUE(erfc_of, erfc)
#undef L1BN_BY_VALUE

struct WideTail {
  DoubleV erfc, density;

  explicit L1BN_INLINE WideTail(DoubleV x) : erfc(erfc_of(x)), density(exp_of(-x * x)) {}
};

L1BN_INLINE Tail tail_of(FloatV x) { return Tail(x); }
L1BN_INLINE WideTail tail_of(DoubleV x) { return WideTail(x); }

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
