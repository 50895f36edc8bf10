#include "parameter.h"

#define UNIT_BITS 32 /* fraction bits of gradients and momentum while they are added */
#define RATE_BITS 16 /* of the learning rate and the momentum */
#define LIMIT_BITS 40
#define FIRST_UPDATE 2048u

uint32_t l1bn_master_peak(const l1bn_run* run, const l1bn_parameter* p) {
  const l1bn_i16* master = l1bn_master(run, p);
  uint32_t peak = 0;
  for (uint32_t i = 0; i < p->count; ++i) peak = l1bn_peak(peak, master[i]);
  return peak;
}

static int64_t limited(int64_t value) {
  return l1bn_clip(value, -((int64_t)1 << LIMIT_BITS), (int64_t)1 << LIMIT_BITS);
}

/* value * 2**exponent in units, to nearest and saturated. */
static int64_t to_units(int64_t value, int32_t exponent) {
  const int32_t shift = exponent + UNIT_BITS;
  if (shift < 0) return limited(l1bn_nearest(value, l1bn_min(-shift, 62)));
  const int32_t up = l1bn_min(shift, LIMIT_BITS);
  const int64_t bound = ((int64_t)1 << LIMIT_BITS) >> up;
  return l1bn_scaled(l1bn_clip(value, -bound, bound), up);
}

/* value / 2**shift with 32 random bits, or to nearest. */
static int64_t shifted(int64_t value, int32_t shift, l1bn_noise noise, uint32_t counter) {
  if (shift == 0) return value;
  if (!noise.stochastic) return l1bn_nearest(value, shift);
  const uint64_t bits = l1bn_random(noise.start, counter);
  return (value + (int64_t)(shift > 32 ? bits << (shift - 32) : bits >> (32 - shift))) >> shift;
}

static int64_t gradient_at(const l1bn_gradient* g, uint32_t i) {
  return g->narrow != 0 ? g->narrow[i] : g->wide[i];
}

/* The scalars of a step, and where the parameter lies. */
typedef struct {
  l1bn_i16 *master, *momentum;
  int32_t exponent, momentum_exponent;
  uint32_t decay, factor;
} step_of;

static int64_t velocity(const step_of* s, const l1bn_gradient* g, uint32_t i, int64_t* d) {
  *d = to_units(gradient_at(g, i), g->exponent) +
       to_units((int64_t)s->master[i] * s->decay, s->exponent - 2 * RATE_BITS);
  if (s->momentum == 0) return limited(*d);
  const int64_t v = to_units(s->momentum[i], s->momentum_exponent);
  return limited(((v * s->factor + (1 << (RATE_BITS - 1))) >> RATE_BITS) + *d);
}

/* Add the magnitudes of a gradient to its block's norm. */
static void measure(const l1bn_run* run, const l1bn_parameter* p, const l1bn_gradient* g) {
  if (run->norms == 0) return;
  int64_t total = 0;
  for (uint32_t i = 0; i < p->count; ++i) {
    const int64_t value = to_units(gradient_at(g, i), g->exponent);
    total += value < 0 ? -value : value;
  }
  run->norms[g->block] += total;
}

static void make_room(const l1bn_run* run, const l1bn_parameter* p, int32_t high) {
  if (4 * l1bn_master_peak(run, p) <= 3u * (uint32_t)high) return;
  l1bn_i16* master = l1bn_master(run, p);
  for (uint32_t i = 0; i < p->count; ++i) master[i] = (int16_t)((master[i] + 1) >> 1);
  l1bn_numbers(run)[p->slot] += 1;
}

void l1bn_sgd_step(const l1bn_run* run, const l1bn_parameter* p, const l1bn_gradient* gradient) {
  const l1bn_network* net = run->network;
  l1bn_i32* exponents = l1bn_numbers(run) + p->slot;
  const step_of s = {l1bn_master(run, p),
                     p->momentum == L1BN_CALLER ? 0 : (l1bn_i16*)(void*)(run->state + p->momentum),
                     exponents[0],
                     exponents[1],
                     p->decays ? net->decay : 0u,
                     net->momentum};
  const int32_t high = (int32_t)(((uint32_t)1 << (net->master_bits - 1)) - 1u);
  const int32_t shift = l1bn_min(UNIT_BITS + RATE_BITS + s.exponent, 62);
  const l1bn_noise first = l1bn_noise_of(run, FIRST_UPDATE + p->index, 0);
  const l1bn_noise second = l1bn_noise_of(run, FIRST_UPDATE + p->index, 1);
  int32_t momentum_shift = 0;
  int64_t d;
  measure(run, p, gradient);
  if (s.momentum != 0) {
    uint64_t peak = 0;
    for (uint32_t i = 0; i < p->count; ++i) {
      const int64_t v = velocity(&s, gradient, i, &d);
      const uint64_t magnitude = (uint64_t)(v < 0 ? -v : v);
      if (magnitude > peak) peak = magnitude;
    }
    momentum_shift = l1bn_peak_shift(peak, net->master_bits);
  }
  for (uint32_t i = 0; i < p->count; ++i) {
    const int64_t v = velocity(&s, gradient, i, &d);
    int64_t move = v;
    if (net->nesterov && s.momentum != 0)
      move = limited(((v * s.factor + (1 << (RATE_BITS - 1))) >> RATE_BITS) + d);
    const int64_t delta = shifted(move * (int64_t)run->rate, shift, first, i);
    s.master[i] = (int16_t)l1bn_clip(s.master[i] - delta, -high, high);
    if (s.momentum != 0)
      s.momentum[i] = (int16_t)l1bn_clip(shifted(v, momentum_shift, second, i), -high, high);
  }
  if (s.momentum != 0) exponents[1] = momentum_shift - UNIT_BITS;
  make_room(run, p, high);
}
