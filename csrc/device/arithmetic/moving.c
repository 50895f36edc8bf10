#include "moving.h"

#include "channel.h"

#define FRACTION_BITS 16
#define K 82137 /* sqrt(pi/2) * 2**16 */
#define SHARE_BITS 11
#define BEYOND 128                /* no 8-bit number is at or above it */
#define WIDE ((int64_t)1 << 30)   /* variance of 128 steps */
#define NARROW ((int64_t)1 << 26) /* variance of 32 steps */
#define NEAR ((int64_t)1 << 21)   /* a mean of 32 steps */
#define LARGEST_SIGMA \
  (INT64_C(1) << 31) /* its square settles to the largest number, as any above */

int32_t l1bn_threshold_of(const l1bn_running* average) {
  const int64_t found = -l1bn_floor_divide(-average->mean, (int64_t)1 << FRACTION_BITS);
  return (int32_t)l1bn_clip(found, -BEYOND, BEYOND);
}

int64_t l1bn_batch_mean(const l1bn_sides* batch) {
  return l1bn_divide_nearest(l1bn_scaled(batch->total, FRACTION_BITS), batch->count);
}

int32_t l1bn_share(int32_t momentum, int32_t batches) {
  const int64_t seen = (int64_t)batches + 1;
  return l1bn_max(momentum, (int32_t)((L1BN_WHOLE + seen - 1) / seen));
}

static int64_t part_way(int64_t from, int64_t to, int32_t momentum) {
  return from + (((to - from) * momentum + (1 << (SHARE_BITS - 1))) >> SHARE_BITS);
}

/* k * mean|x - mean|, to nearest. The deviation has 50 bits: what it leaves of the count is
 * multiplied apart. */
static int64_t sigma_of(const l1bn_running* average, const l1bn_sides* batch) {
  const int64_t count = batch->count, difference = 2 * (int64_t)batch->above - count;
  const int64_t deviation = l1bn_scaled(2 * (int64_t)batch->high - batch->total, FRACTION_BITS) -
                            difference * average->mean;
  const int64_t whole = deviation / count, rest = deviation % count;
  const int64_t twice = 2 * K * whole + 2 * K * rest / count;
  return (twice + ((int64_t)1 << FRACTION_BITS)) >> (FRACTION_BITS + 1);
}

l1bn_running l1bn_toward(const l1bn_running* average, const l1bn_sides* batch, int32_t momentum) {
  const uint64_t square = (uint64_t)average->variance << (FRACTION_BITS + 2);
  const int64_t before = (int64_t)((l1bn_root(square) + 1u) >> 1);
  int64_t sigma = part_way(before, sigma_of(average, batch), momentum);
  if (sigma > LARGEST_SIGMA) sigma = LARGEST_SIGMA;
  const l1bn_running out = {
      part_way(average->mean, l1bn_batch_mean(batch), momentum),
      (sigma * sigma + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS,
  };
  return out;
}

int32_t l1bn_settle(l1bn_running* average, int32_t exponent, int32_t seen) {
  const int64_t mean = average->mean, variance = average->variance;
  const int small = variance < NARROW && mean < NEAR && mean > -NEAR;
  const int32_t change = variance > WIDE ? 1 : (small && seen <= exponent - 2 ? -1 : 0);
  average->mean = l1bn_coarsen(mean, change);
  average->variance = l1bn_coarsen(variance, 2 * change);
  return change;
}
