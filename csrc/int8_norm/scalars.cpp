#include "int8_norm/scalars.h"

namespace l1bn {
namespace int8_norm {

namespace {

typedef __int128 Big;

constexpr int64_t kFractionBits = 16;
constexpr int64_t kInverseK = 52290;  // √(2/π) · 2**16
constexpr int64_t kK = 82137;         // √(π/2) · 2**16
constexpr int64_t kPow2Bits = 7;
constexpr int64_t kPow2Point = 144;  // decision point of the power-of-two sigma
constexpr int64_t kElement = int64_t(1) << 30;

Big floor_divide(Big numerator, Big denominator) {
  const Big quotient = numerator / denominator;
  return quotient - (numerator % denominator < 0);
}

// To nearest, ties up.
Big divide_nearest(Big numerator, Big denominator) {
  return floor_divide(2 * numerator + denominator, 2 * denominator);
}

int bit_length(Big value) {
  const uint64_t high = uint64_t(value >> 64), low = uint64_t(value);
  if (high) return 128 - __builtin_clzll(high);
  return low ? 64 - __builtin_clzll(low) : 0;
}

int64_t magnitude(int64_t value) { return value < 0 ? -value : value; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

struct Reciprocal {
  int64_t mantissa;
  int64_t exponent;
};

Big shifted_quotient(Big numerator, Big divisor, int64_t exponent) {
  return (numerator << larger(exponent, 0)) / (divisor << larger(-exponent, 0));
}

// The leading bits of 1/sigma by division; the last one is a constant one, half a step.
Reciprocal exact_reciprocal(int64_t count, int64_t deviation, int64_t bits) {
  const Big numerator = Big(kInverseK) * count * count;
  const Big divisor = Big(deviation) << kFractionBits;
  int64_t exponent = bits - 1 - bit_length(numerator) + bit_length(divisor);
  Big quotient = shifted_quotient(numerator, divisor, exponent);
  if (quotient >= Big(1) << (bits - 1))
    quotient = shifted_quotient(numerator, divisor, --exponent);
  else if (quotient < Big(1) << (bits - 2))
    quotient = shifted_quotient(numerator, divisor, ++exponent);
  return {2 * int64_t(quotient) + 1, exponent + 1};
}

// The smallest e with deviation * 2**7 < 144 * count**2 * 2**e.
Reciprocal pow2_reciprocal(int64_t count, int64_t deviation, int64_t bits) {
  const Big square = Big(count) * count * kPow2Point, value = Big(deviation) << kPow2Bits;
  int64_t e = bit_length(value) - bit_length(square) - 1;
  while ((value << larger(-e, 0)) >= (square << larger(e, 0))) ++e;
  return {int64_t(1) << (bits - 1), e + bits - 1};
}

int64_t dgamma_of(Big q) {
  return int64_t((q * kInverseK + (1 << (kFractionBits - 1))) >> kFractionBits);
}

// Largest magnitude of g * coefficient + offset on one side of the mean.
int64_t peak_of(const GradientSums& sums, int bit, int64_t coefficient, int64_t offset) {
  if (sums.low[bit] > sums.high[bit]) return 0;
  return larger(magnitude(sums.low[bit] * coefficient + offset),
                magnitude(sums.high[bit] * coefficient + offset));
}

}  // namespace

bool fits(int64_t coefficient, int64_t offset, int64_t shift) {
  if (shift < 1 || shift > 30) return false;
  const int64_t half = int64_t(1) << (shift - 1);
  return (magnitude(coefficient) << 7) + magnitude(offset) + half < kElement;
}

bool forward_scalars(const l1bn_int8_spec& spec, int64_t count, int64_t total, int64_t deviation,
                     int64_t gamma, int64_t beta, ForwardScalars* out) {
  out->live = deviation > spec.deviation_floor;
  out->deviation = out->live ? deviation : spec.deviation_floor;
  const Reciprocal r = spec.pow2 ? pow2_reciprocal(count, out->deviation, spec.mantissa_bits)
                                 : exact_reciprocal(count, out->deviation, spec.mantissa_bits);
  const int64_t shift = r.exponent + spec.shift_base;
  if (shift < 1 || shift > 30) return false;
  const int64_t coefficient = (gamma * r.mantissa + (int64_t(1) << (spec.width - 1))) >> spec.width;
  const int64_t offset =
      int64_t(divide_nearest(Big(-coefficient) * total, count)) + beta * (int64_t(1) << shift);
  if (!fits(coefficient, offset, shift)) return false;
  out->coefficient = int32_t(coefficient);
  out->offset = int32_t(offset);
  out->shift = int32_t(shift);
  out->reciprocal = int32_t(r.exponent);
  return true;
}

bool backward_scalars(const l1bn_int8_spec& spec, int64_t count, int64_t total, int64_t above,
                      int64_t deviation, bool live, int64_t coefficient, int64_t reciprocal,
                      const GradientSums& sums, BackwardScalars* out) {
  const Big covariance = Big(count) * sums.product - Big(total) * sums.g;
  Big q;
  if (spec.pow2) {
    const int64_t exponent = reciprocal - (spec.mantissa_bits - 1);
    const Big up = covariance * (Big(1) << larger(-exponent, 0));
    const Big dgamma = floor_divide(up, Big(count) << larger(exponent, 0));
    out->dgamma = int64_t(dgamma);
    q = (dgamma * kK) >> kFractionBits;
  } else {
    q = covariance * count / deviation;  // toward zero
    out->dgamma = dgamma_of(q);
  }
  if (!live) q = 0;
  const Big below = floor_divide(2 * Big(sums.g) * count + count - 4 * q * above, 2 * Big(count));
  out->peak = 0;
  for (int bit = 0; bit < 2; ++bit) {
    const Big offset = divide_nearest(-coefficient * (bit ? below + 2 * q : below), count);
    if (offset > kElement || offset < -kElement || !fits(coefficient, int64_t(offset), 1))
      return false;
    out->offset[bit] = int32_t(offset);
    out->peak = larger(out->peak, peak_of(sums, bit, coefficient, out->offset[bit]));
  }
  return true;
}

BackwardScalars constant_scalars(int64_t count, int64_t total, int64_t deviation,
                                 int64_t coefficient, const GradientSums& sums) {
  const Big covariance = Big(count) * sums.product - Big(total) * sums.g;
  const int64_t peak = larger(peak_of(sums, 0, coefficient, 0), peak_of(sums, 1, coefficient, 0));
  return {{0, 0}, dgamma_of(covariance * count / deviation), peak};
}

int64_t peak_shift(int64_t peak, int64_t bits) { return larger(0, bit_length(peak) - (bits - 1)); }

}  // namespace int8_norm
}  // namespace l1bn
