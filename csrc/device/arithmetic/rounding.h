/* Shifts, rounding, saturation and the random bits of stochastic rounding. */
#ifndef L1BN_ROUNDING_H
#define L1BN_ROUNDING_H

#include <stdint.h>

/* Memory of the arena and of the state holds numbers of different widths at different times. */
#if defined(__GNUC__)
#define L1BN_ALIASING __attribute__((__may_alias__))
#else
#define L1BN_ALIASING
#endif
typedef int16_t L1BN_ALIASING l1bn_i16;
typedef int32_t L1BN_ALIASING l1bn_i32;
typedef int64_t L1BN_ALIASING l1bn_i64;

#define L1BN_MAX_SHIFT 31

/* The random bits of one rounding; without `stochastic` it rounds to nearest, ties up. */
typedef struct {
  uint64_t start;
  int stochastic;
} l1bn_noise;

/* Bits of a magnitude. */
static inline int32_t l1bn_bits(uint64_t value) {
  int32_t bits = 0;
  while (value >= 256u) {
    value >>= 8;
    bits += 8;
  }
  while (value != 0u) {
    value >>= 1;
    ++bits;
  }
  return bits;
}

static inline int32_t l1bn_min(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int32_t l1bn_max(int32_t a, int32_t b) { return a > b ? a : b; }

static inline int64_t l1bn_clip(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : (value > high ? high : value);
}

static inline uint32_t l1bn_magnitude(int32_t value) {
  return value < 0 ? 0u - (uint32_t)value : (uint32_t)value;
}

/* The largest magnitude so far, with one more value. */
static inline uint32_t l1bn_peak(uint32_t peak, int32_t value) {
  return l1bn_magnitude(value) > peak ? l1bn_magnitude(value) : peak;
}

/* value / 2**down to nearest, ties up; down: 1 to 62. */
static inline int64_t l1bn_nearest(int64_t value, int32_t down) {
  return (value + ((int64_t)1 << (down - 1))) >> down;
}

/* Right shift that brings magnitudes up to `peak` into `bits` bits, before rounding. */
static inline int32_t l1bn_peak_shift(uint64_t peak, int32_t bits) {
  return l1bn_max(0, l1bn_bits(peak) - (bits - 1));
}

/* value * 2**shift, for any sign. */
static inline int64_t l1bn_scaled(int64_t value, int32_t shift) {
  return value * (int64_t)((uint64_t)1 << shift);
}

/* The finalizer of SplitMix64. */
static inline uint64_t l1bn_mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

static inline uint64_t l1bn_stream(uint64_t seed, uint64_t stream) {
  return l1bn_mix(seed * 0x9E3779B97F4A7C15u + stream * 0xD1B54A32D192ED03u);
}

/* 32 random bits of the element that lies at `counter` in memory. */
static inline uint32_t l1bn_random(uint64_t start, uint32_t counter) {
  return (uint32_t)(l1bn_mix((uint64_t)counter * 0x9E3779B97F4A7C15u + start) >> 32);
}

/* Shift right by 0 to 31 with rounding, and saturate symmetrically to `bits` bits. */
static inline int32_t l1bn_rescale(int32_t value, int32_t shift, int32_t bits, l1bn_noise noise,
                                   uint32_t counter) {
  const int32_t high = (int32_t)(((uint32_t)1 << (bits - 1)) - 1u);
  int64_t added = 0;
  if (shift > 0) {
    added = noise.stochastic ? (int64_t)(l1bn_random(noise.start, counter) >> (32 - shift))
                             : (int64_t)1 << (shift - 1);
  }
  return (int32_t)l1bn_clip(((int64_t)value + added) >> shift, -high, high);
}

/* An 8-bit value in steps that are 2**shift times as coarse, to nearest and saturated. */
static inline int32_t l1bn_aligned(int32_t value, int32_t shift) {
  if (shift > 0) return (value >> l1bn_min(shift, 7)) + ((value >> (l1bn_min(shift, 8) - 1)) & 1);
  return (int32_t)l1bn_clip(l1bn_scaled(value, l1bn_min(-shift, 16)), shift == 0 ? -128 : -127,
                            127);
}

static inline int64_t l1bn_floor_divide(int64_t numerator, int64_t denominator) {
  const int64_t quotient = numerator / denominator;
  return quotient - (numerator % denominator < 0 ? 1 : 0);
}

/* To nearest, ties up; the denominator is positive. */
static inline int64_t l1bn_divide_nearest(int64_t numerator, int64_t denominator) {
  return l1bn_floor_divide(2 * numerator + denominator, 2 * denominator);
}

#endif
