#include "channel.h"

#define FRACTION_BITS 16
#define INVERSE_K 52290 /* sqrt(2/pi) * 2**16 */
#define K 82137         /* sqrt(pi/2) * 2**16 */
#define POW2_BITS 7
#define POW2_POINT 144 /* decision point of the power-of-two sigma */
#define MANTISSA_BITS 10
#define GAMMA_FRACTION 6
#define WIDTH 8
#define RUNNING_BITS 16
#define EVALUATION_COUNT 65536

/* 128 bits: the square of a deviation needs 119. */
typedef struct {
  uint64_t high, low;
} wide;

static wide wide_product(uint64_t a, uint64_t b) {
  const uint64_t a1 = a >> 32, a0 = a & 0xFFFFFFFFu, b1 = b >> 32, b0 = b & 0xFFFFFFFFu;
  const uint64_t low = a0 * b0, first = a1 * b0 + (low >> 32), second = a0 * b1;
  const uint64_t middle = (first & 0xFFFFFFFFu) + second;
  const wide out = {a1 * b1 + (first >> 32) + (middle >> 32), (middle << 32) | (low & 0xFFFFFFFFu)};
  return out;
}

static wide wide_shift(wide a, int32_t up) { /* up: 1 to 63 */
  const wide out = {(a.high << up) | (a.low >> (64 - up)), a.low << up};
  return out;
}

static wide wide_sum(wide a, wide b) {
  const uint64_t low = a.low + b.low;
  const wide out = {a.high + b.high + (low < a.low ? 1u : 0u), low};
  return out;
}

static int wide_below(wide a, wide b) {
  return a.high < b.high || (a.high == b.high && a.low < b.low);
}

/* To nearest, ties up, saturated to 31 bits; both below 2**123. */
static int32_t wide_ratio(wide numerator, wide denominator) {
  const wide top = wide_sum(wide_shift(numerator, 1), denominator);
  const wide divisor = wide_shift(denominator, 1);
  wide rest = {0, 0};
  uint64_t quotient = 0;
  for (int32_t bit = 127; bit >= 0; --bit) {
    const uint64_t word = bit >= 64 ? top.high >> (bit - 64) : top.low >> bit;
    rest = wide_shift(rest, 1);
    rest.low |= word & 1u;
    quotient <<= 1;
    if (!wide_below(rest, divisor)) {
      rest.high -= divisor.high + (rest.low < divisor.low ? 1u : 0u);
      rest.low -= divisor.low;
      quotient |= 1u;
    }
    if (quotient > 0x7FFFFFFFu) return 0x7FFFFFFF;
  }
  return (int32_t)quotient;
}

void l1bn_deviation(l1bn_statistics* s, int64_t deviation) {
  const uint64_t square = (uint64_t)s->count * (uint64_t)s->count;
  const int64_t floor = (int64_t)((INVERSE_K * square) >> (FRACTION_BITS + 2)) + 1;
  s->live = deviation > floor;
  s->deviation = s->live ? deviation : floor;
}

static uint64_t shifted_quotient(uint64_t numerator, uint64_t divisor, int32_t exponent) {
  return (numerator << l1bn_max(exponent, 0)) / (divisor << l1bn_max(-exponent, 0));
}

/* Leading bits of 1/sigma; the last one is a constant one, half a step. */
static int32_t exact_reciprocal(const l1bn_statistics* s, int32_t* exponent) {
  const int32_t bits = MANTISSA_BITS - 1;
  const uint64_t numerator = INVERSE_K * ((uint64_t)s->count * (uint64_t)s->count);
  const uint64_t divisor = (uint64_t)s->deviation; /* times 2**FRACTION_BITS */
  int32_t e = bits - l1bn_bits(numerator) + l1bn_bits(divisor);
  uint64_t quotient = shifted_quotient(numerator, divisor, e);
  if (quotient >= (uint64_t)1 << bits) {
    quotient = shifted_quotient(numerator, divisor, --e);
  } else if (quotient < (uint64_t)1 << (bits - 1)) {
    quotient = shifted_quotient(numerator, divisor, ++e);
  }
  *exponent = e + FRACTION_BITS + 1;
  return 2 * (int32_t)quotient + 1;
}

/* The smallest e with deviation * 2**7 < 144 * count**2 * 2**e. */
static int32_t pow2_reciprocal(const l1bn_statistics* s, int32_t* exponent) {
  const uint64_t square = POW2_POINT * ((uint64_t)s->count * (uint64_t)s->count);
  const uint64_t value = (uint64_t)s->deviation << POW2_BITS;
  int32_t e = l1bn_bits(value) - l1bn_bits(square) - 1;
  while ((value << l1bn_max(-e, 0)) >= (square << l1bn_max(e, 0))) ++e;
  *exponent = e + MANTISSA_BITS - 1;
  return (int32_t)1 << (MANTISSA_BITS - 1);
}

void l1bn_fold(l1bn_channel* channel, int32_t gamma, int32_t beta, int32_t fraction) {
  const l1bn_statistics* s = &channel->statistics;
  int32_t exponent;
  const int32_t mantissa = s->pow2 ? pow2_reciprocal(s, &exponent) : exact_reciprocal(s, &exponent);
  const int32_t shift = exponent + GAMMA_FRACTION - fraction - WIDTH;
  const int32_t coefficient = (gamma * mantissa + (1 << (WIDTH - 1))) >> WIDTH;
  const int64_t mean = l1bn_divide_nearest(-(int64_t)coefficient * s->total, s->count);
  channel->coefficient = coefficient;
  channel->offset = (int32_t)(mean + l1bn_scaled(beta, shift));
  channel->shift = (int16_t)shift;
  channel->reciprocal = (int16_t)exponent;
}

uint64_t l1bn_root(uint64_t value) {
  uint64_t found = 0;
  for (int32_t bit = 31; bit >= 0; --bit) {
    const uint64_t next = found | ((uint64_t)1 << bit);
    if (next * next <= value) found = next;
  }
  return found;
}

void l1bn_evaluation(l1bn_statistics* s, int32_t mean, int32_t variance) {
  const int64_t sigma = (int64_t)l1bn_root((uint64_t)(variance < 0 ? 0 : variance) << RUNNING_BITS);
  s->count = EVALUATION_COUNT;
  s->total = mean;
  l1bn_deviation(s, sigma * INVERSE_K);
  s->live = 1;
}

/* covariance * count / deviation, toward zero, without its 80 bits. */
static int64_t slope(int64_t covariance, int64_t count, int64_t deviation) {
  const uint64_t size = (uint64_t)(covariance < 0 ? -covariance : covariance);
  const uint64_t d = (uint64_t)deviation, n = (uint64_t)count;
  const int64_t quotient = (int64_t)(size / d * n + size % d * n / d);
  return covariance < 0 ? -quotient : quotient;
}

static int64_t dgamma_of(int64_t q) {
  return (q * INVERSE_K + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS;
}

static int64_t covariance_of(const l1bn_statistics* s, int32_t total, int32_t products) {
  return (int64_t)s->count * products - (int64_t)s->total * total;
}

l1bn_slopes l1bn_slopes_of(const l1bn_channel* channel, int32_t total, int32_t products) {
  const l1bn_statistics* s = &channel->statistics;
  const int64_t covariance = covariance_of(s, total, products), count = s->count;
  l1bn_slopes out;
  int64_t q;
  if (s->pow2) {
    const int32_t exponent = channel->reciprocal - (MANTISSA_BITS - 1);
    out.dgamma = l1bn_floor_divide(l1bn_scaled(covariance, l1bn_max(-exponent, 0)),
                                   l1bn_scaled(count, l1bn_max(exponent, 0)));
    q = (out.dgamma * K) >> FRACTION_BITS;
  } else {
    q = slope(covariance, count, s->deviation);
    out.dgamma = dgamma_of(q);
  }
  if (!s->live) q = 0;
  const int64_t below = l1bn_floor_divide(2 * total * count + count - 4 * q * s->above, 2 * count);
  out.offset[0] = (int32_t)l1bn_divide_nearest(-channel->coefficient * below, count);
  out.offset[1] = (int32_t)l1bn_divide_nearest(-channel->coefficient * (below + 2 * q), count);
  return out;
}

int64_t l1bn_frozen_dgamma(const l1bn_statistics* s, int32_t total, int32_t products) {
  return dgamma_of(slope(covariance_of(s, total, products), s->count, s->deviation));
}

static int32_t to_int32(int64_t value) {
  return (int32_t)l1bn_clip(value, -0x7FFFFFFF, 0x7FFFFFFF);
}

void l1bn_running_of(const l1bn_statistics* s, int32_t shift, int32_t* mean, int32_t* variance) {
  const uint64_t count = (uint64_t)s->count;
  const int64_t total = l1bn_scaled(s->total, RUNNING_BITS);
  /* beyond these shifts the result is 0 */
  *mean = to_int32(l1bn_divide_nearest(total, l1bn_scaled(s->count, l1bn_min(shift, 25))));
  /* sigma = K * deviation / count**2; its square, with Bessel's correction */
  const uint64_t sigma = K * (uint64_t)s->deviation;
  const wide below = wide_product(count * count, count * (count - 1u));
  *variance = wide_ratio(wide_product(sigma, sigma),
                         wide_shift(below, FRACTION_BITS + 2 * l1bn_min(shift, 17)));
}

int32_t l1bn_coarsen(int64_t value, int32_t shift) {
  if (shift <= 0) return to_int32(l1bn_scaled(value, l1bn_min(-shift, 31)));
  const int32_t down = l1bn_min(shift, 40);
  return to_int32((2 * value + ((int64_t)1 << down)) >> (down + 1));
}
