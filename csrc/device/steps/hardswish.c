#include "run.h"

#define CODES 256
#define FAR                                                                             \
  16 /* exponents beyond are as these: 3 is out of reach of 8 bits, or less than a step \
      */
#define SLOPE_BITS 6
#define ERROR 2 /* stream of random bits */

/* A code and 1, in steps that hold both. */
typedef struct {
  int32_t up, one;
} units;

static units units_of(int32_t exponent) {
  const int32_t e = l1bn_max(-FAR, l1bn_min(exponent, FAR));
  const units u = {1 << l1bn_max(e, 0), 1 << l1bn_max(-e, 0)};
  return u;
}

static int32_t value_of(const units* u, int32_t code) {
  const int32_t gate = l1bn_max(0, l1bn_min(code * u->up + 3 * u->one, 6 * u->one));
  return (int32_t)l1bn_floor_divide(2 * code * gate + 6 * u->one, 12 * u->one);
}

static int32_t slope_of(const units* u, int32_t code) {
  const int32_t wide = code * u->up;
  if (wide >= 3 * u->one) return 1 << SLOPE_BITS;
  if (wide <= -3 * u->one) return 0;
  const int32_t twice = 2 << SLOPE_BITS;
  return (int32_t)l1bn_floor_divide((2 * wide + 3 * u->one) * twice + 6 * u->one, 12 * u->one);
}

static void fill(int8_t* table, int32_t exponent, int32_t (*of)(const units*, int32_t)) {
  const units u = units_of(exponent);
  for (int32_t i = 0; i < CODES; ++i) table[i] = (int8_t)of(&u, i - CODES / 2);
}

static uint32_t values_in(const l1bn_run* run, const l1bn_op* op) {
  return run->count * l1bn_in_size(&run->network->windows[op->window]);
}

void l1bn_hardswish(const l1bn_run* run, const l1bn_op* op) {
  int8_t table[CODES];
  const int8_t* a = l1bn_at(run, op->a);
  int8_t* out = l1bn_at(run, op->out);
  const uint32_t count = values_in(run, op);
  fill(table, run->exponents[op->a], value_of);
  for (uint32_t i = 0; i < count; ++i) out[i] = table[a[i] + CODES / 2];
  run->exponents[op->out] = run->exponents[op->a];
}

void l1bn_hardswish_error(const l1bn_run* run, const l1bn_op* op) {
  int8_t table[CODES];
  const int8_t* x = l1bn_at(run, op->x);
  int8_t* error = l1bn_at(run, op->a);
  const uint32_t count = values_in(run, op);
  const int32_t bits = run->network->error_bits;
  const l1bn_noise noise = l1bn_noise_of(run, op->site, ERROR);
  uint32_t peak = 0;
  fill(table, run->exponents[op->x], slope_of);
  for (uint32_t i = 0; i < count; ++i) peak = l1bn_peak(peak, error[i] * table[x[i] + CODES / 2]);
  const int32_t shift = l1bn_peak_shift(peak, bits);
  for (uint32_t i = 0; i < count; ++i)
    error[i] = (int8_t)l1bn_rescale(error[i] * table[x[i] + CODES / 2], shift, bits, noise, i);
  run->exponents[op->out] = (int16_t)(run->exponents[op->a] - SLOPE_BITS + shift);
}
