#include "run.h"

#define LOG2_E 23637 /* log2(e) * 2**14 */
#define LOG2_E_BITS 14
#define TABLE_BITS 10
#define PROBABILITY_BITS 14
#define MEAN_BITS 16
#define MAX_SHIFT 62

/* How far a logit lies below the largest one, in units of 2**-10 of a power of two. */
static int64_t below_of(int32_t largest, int32_t logit, int32_t exponent) {
  const int64_t below = ((int64_t)largest - logit) * LOG2_E;
  const int32_t shift = LOG2_E_BITS - TABLE_BITS - exponent;
  if (shift >= 0) return below >> l1bn_min(shift, MAX_SHIFT);
  const int32_t up = l1bn_min(-shift, MAX_SHIFT);
  return l1bn_scaled(l1bn_clip(below, 0, ((int64_t)1 << MAX_SHIFT) >> up), up);
}

static uint32_t power_of(const l1bn_run* run, int64_t below) {
  const int64_t shift = below >> TABLE_BITS;
  const uint32_t fraction = (uint32_t)below & ((1u << TABLE_BITS) - 1u);
  return shift > L1BN_MAX_SHIFT ? 0u : (uint32_t)run->network->powers[fraction] >> shift;
}

/* Largest logit of a row, and the sum of its powers. */
static uint32_t row_total(const l1bn_run* run, const l1bn_i32* logits, int32_t exponent,
                          int32_t* largest) {
  const uint32_t classes = run->network->classes;
  uint32_t total = 0;
  *largest = logits[0];
  for (uint32_t c = 1; c < classes; ++c) *largest = l1bn_max(*largest, logits[c]);
  for (uint32_t c = 0; c < classes; ++c)
    total += power_of(run, below_of(*largest, logits[c], exponent));
  return total;
}

void l1bn_loss(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_network* net = run->network;
  const l1bn_noise noise = l1bn_noise_of(run, 0, 0);
  const l1bn_i32* logits = l1bn_at32(run, op->a);
  l1bn_i32* wide = l1bn_at32(run, op->sums);
  int8_t* out = l1bn_at(run, op->out);
  const int32_t exponent = run->exponents[op->a], spread = net->smoothing / net->classes;
  const int32_t inverse = (int32_t)((((uint32_t)2 << MEAN_BITS) + run->count) / (2u * run->count));
  uint32_t peak = 0;
  for (uint32_t n = 0; n < run->count; ++n) {
    int32_t largest;
    const uint32_t total = row_total(run, logits + n * net->classes, exponent, &largest);
    for (uint32_t c = 0; c < net->classes; ++c) {
      const uint32_t at = n * net->classes + c;
      const uint32_t power = power_of(run, below_of(largest, logits[at], exponent));
      const int32_t probability =
          (int32_t)((((uint64_t)power << PROBABILITY_BITS) + total / 2u) / total);
      int32_t target = spread;
      if (c == run->labels[n]) target += (1 << PROBABILITY_BITS) - net->smoothing;
      wide[at] = (probability - target) * inverse;
      peak = l1bn_peak(peak, wide[at]);
    }
  }
  const int32_t shift = l1bn_peak_shift(peak, net->error_bits);
  for (uint32_t at = 0; at < run->count * net->classes; ++at)
    out[at] = (int8_t)l1bn_rescale(wide[at], shift, net->error_bits, noise, at);
  run->exponents[op->out] = (int16_t)(shift - PROBABILITY_BITS - MEAN_BITS);
}
