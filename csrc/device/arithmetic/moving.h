/* Averages that a layer normalizes by and then moves: l1bn.fixed_point.norm.constant. */
#ifndef L1BN_MOVING_H
#define L1BN_MOVING_H

#include <stdint.h>

#define L1BN_WHOLE 2048 /* share of a batch that replaces what was before */

/* With 16 fraction bits, in steps of the data; they may leave 32 bits until they settle. */
typedef struct {
  int64_t mean, variance;
} l1bn_running;

/* Sums of a channel, and of its elements at or above a threshold. */
typedef struct {
  int32_t count, total, above, high;
} l1bn_sides;

/* Smallest 8-bit number at or above the mean, or 128. */
int32_t l1bn_threshold_of(const l1bn_running* average);

/* The mean of a batch. */
int64_t l1bn_batch_mean(const l1bn_sides* batch);

/* Share of the next batch, of 2048: the first count as in a plain average. */
int32_t l1bn_share(int32_t momentum, int32_t batches);

/* Averages moved by `momentum` of 2048: the mean to the batch's, sigma to k * mean|x - mean|. */
l1bn_running l1bn_toward(const l1bn_running* average, const l1bn_sides* batch, int32_t momentum);

/* Bring averages into 32 bits and the steps in which they are kept; return by how many powers of
 * two those are coarser. `seen` is the exponent that the batch alone needs. */
int32_t l1bn_settle(l1bn_running* average, int32_t exponent, int32_t seen);

#endif
