/* The numbers of one channel of L1BN: l1bn.fixed_point's fold, l1_slopes and Running. */
#ifndef L1BN_CHANNEL_H
#define L1BN_CHANNEL_H

#include "run.h"

/* Sums over up to 2**17 elements of 8 bits; statistics of evaluation are those of 2**16. */
typedef struct {
  int64_t deviation; /* sum of |M*x - S|, not below the floor */
  int32_t count;     /* M */
  int32_t total;     /* S */
  int32_t above;     /* elements at or above the mean */
  int16_t threshold; /* smallest integer at or above the mean */
  uint8_t live;      /* where the floor does not hold */
  uint8_t pow2;      /* sigma is a power of two */
} l1bn_statistics;

/* y = (x * coefficient + offset + half) >> shift, and what the backward pass needs. */
typedef struct {
  l1bn_statistics statistics;
  int32_t coefficient;
  int32_t offset;
  int16_t shift;
  int16_t reciprocal; /* exponent of 1/sigma */
  int16_t exponent;   /* of x */
} L1BN_ALIASING l1bn_channel;

typedef char l1bn_channel_has_40_bytes[sizeof(l1bn_channel) == 40u ? 1 : -1];

/* dx before its last shift is g * coefficient + offset[x >= threshold]. */
typedef struct {
  int64_t dgamma;
  int32_t offset[2];
} l1bn_slopes;

/* Set `deviation` from twice the sum of what lies above the mean, and `live`. */
void l1bn_deviation(l1bn_statistics* statistics, int64_t deviation);

/* Fold mean, sigma, gamma and beta into coefficient, offset and shift. */
void l1bn_fold(l1bn_channel* channel, int32_t gamma, int32_t beta, int32_t fraction);

/* The statistics of evaluation, from running ones in steps of the data. */
void l1bn_evaluation(l1bn_statistics* statistics, int32_t mean, int32_t variance);

/* Offsets and dgamma from sums of g and g * x. */
l1bn_slopes l1bn_slopes_of(const l1bn_channel* channel, int32_t total, int32_t products);

/* Sum of g * normalized x where the statistics are constants. */
int64_t l1bn_frozen_dgamma(const l1bn_statistics* statistics, int32_t total, int32_t products);

/* Mean and variance of a batch with 16 fraction bits, in steps 2**shift times as coarse. */
void l1bn_running_of(const l1bn_statistics* statistics, int32_t shift, int32_t* mean,
                     int32_t* variance);

/* Largest integer whose square is no larger. */
uint64_t l1bn_root(uint64_t value);

/* A running number below 2**47 in steps 2**shift times as coarse, within 32 bits; what is above 32
 * bits does not become finer. */
int32_t l1bn_coarsen(int64_t value, int32_t shift);

#endif
