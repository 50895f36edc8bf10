#include "channel.h"
#include "parameter.h"

#define DX 3 /* stream of random bits */

/* Masks the errors of a channel in place, and sums them. */
static l1bn_slopes reduce(const l1bn_run* run, const l1bn_op* op, const l1bn_channel* c,
                          uint32_t channel, int64_t* dbeta) {
  const l1bn_window* w = &run->network->windows[op->window];
  int8_t* g = l1bn_at(run, op->a);
  const int8_t *x = l1bn_at(run, op->x), *y = op->y == L1BN_NONE ? 0 : l1bn_at(run, op->y);
  const uint32_t pixels = run->count * l1bn_out_pixels(w);
  int32_t total = 0, products = 0;
  for (uint32_t p = 0; p < pixels; ++p) {
    const uint32_t at = p * w->out_channels + channel;
    if (y != 0 && y[at] <= 0) g[at] = 0;
    total += g[at];
    products += g[at] * x[at];
  }
  *dbeta = total;
  if (op->mode == L1BN_BATCH) return l1bn_slopes_of(c, total, products);
  const l1bn_slopes constant = {l1bn_frozen_dgamma(&c->statistics, total, products), {0, 0}};
  return constant;
}

static int32_t error_at(const l1bn_channel* c, const l1bn_i32* offset, int32_t g, int32_t x) {
  return g * c->coefficient + offset[x >= c->statistics.threshold];
}

/* The exponent that the input gradients of all channels share. */
static int32_t common_exponent(const l1bn_run* run, const l1bn_op* op, const l1bn_i32* offsets) {
  const l1bn_window* w = &run->network->windows[op->window];
  const l1bn_channel* kept = (const l1bn_channel*)(void*)l1bn_at(run, op->channels);
  const int8_t *g = l1bn_at(run, op->a), *x = l1bn_at(run, op->x);
  const uint32_t pixels = run->count * l1bn_out_pixels(w);
  const int32_t bits = run->network->error_bits;
  const int32_t exponent = run->exponents[op->a] - run->network->norms[op->norm].fraction;
  int32_t out = 0, found = 0;
  for (uint32_t k = 0; k < w->out_channels; ++k) {
    uint32_t peak = 0;
    for (uint32_t p = 0; p < pixels; ++p) {
      const uint32_t at = p * w->out_channels + k;
      peak = l1bn_peak(peak, error_at(&kept[k], offsets + 2 * k, g[at], x[at]));
    }
    if (peak == 0) continue;
    const int32_t needed =
        exponent - kept[k].shift - kept[k].exponent + l1bn_max(1, l1bn_peak_shift(peak, bits));
    out = found ? l1bn_max(out, needed) : needed;
    found = 1;
  }
  return out;
}

static void input_errors(const l1bn_run* run, const l1bn_op* op, const l1bn_i32* offsets) {
  const l1bn_window* w = &run->network->windows[op->window];
  const l1bn_channel* kept = (const l1bn_channel*)(void*)l1bn_at(run, op->channels);
  const int8_t *g = l1bn_at(run, op->a), *x = l1bn_at(run, op->x);
  int8_t* out = l1bn_at(run, op->out); /* where x lies */
  const l1bn_noise noise = l1bn_noise_of(run, op->site, DX);
  const int32_t exponent = run->exponents[op->a] - run->network->norms[op->norm].fraction;
  const int32_t common = common_exponent(run, op, offsets);
  for (uint32_t k = 0; k < w->out_channels; ++k) {
    const int32_t own = exponent - kept[k].shift - kept[k].exponent;
    const int32_t shift = l1bn_max(1, l1bn_min(common - own, L1BN_MAX_SHIFT));
    for (uint32_t p = 0; p < run->count * l1bn_out_pixels(w); ++p) {
      const uint32_t at = p * w->out_channels + k;
      const int32_t wide = error_at(&kept[k], offsets + 2 * k, g[at], x[at]);
      out[at] = (int8_t)l1bn_rescale(wide, shift, run->network->error_bits, noise, at);
    }
  }
  run->exponents[op->out] = (int16_t)common;
}

void l1bn_norm_error(const l1bn_run* run, const l1bn_op* op) {
  const uint32_t channels = run->network->windows[op->window].out_channels;
  const l1bn_norm* norm = &run->network->norms[op->norm];
  const l1bn_channel* kept = (const l1bn_channel*)(void*)l1bn_at(run, op->channels);
  /* gradients of gamma and beta, then two offsets of each channel */
  l1bn_i64* dgamma = (l1bn_i64*)(void*)l1bn_at(run, op->sums);
  l1bn_i64* dbeta = dgamma + channels;
  l1bn_i32* offsets = (l1bn_i32*)(void*)(dbeta + channels);
  for (uint32_t k = 0; k < channels; ++k) {
    int64_t total;
    const l1bn_slopes slopes = reduce(run, op, &kept[k], k, &total);
    dgamma[k] = slopes.dgamma;
    dbeta[k] = total;
    offsets[2 * k] = slopes.offset[0];
    offsets[2 * k + 1] = slopes.offset[1];
  }
  if (op->out != L1BN_NONE) input_errors(run, op, offsets);
  if (op->value < 0 || (run->blocks >> op->value & 1u) == 0u) return;
  const l1bn_parameter *gamma = &run->network->parameters[norm->gamma],
                       *beta = &run->network->parameters[norm->beta];
  const l1bn_gradient of_gamma = {0, dgamma, run->exponents[op->a], op->value};
  const l1bn_gradient of_beta = {0, dbeta, run->exponents[op->a], op->value};
  if (gamma->learns) l1bn_sgd_step(run, gamma, &of_gamma);
  if (beta->learns) l1bn_sgd_step(run, beta, &of_beta);
}
