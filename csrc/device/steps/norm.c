#include "channel.h"
#include "parameter.h"
#include "sums.h"

#define DX 3 /* stream of random bits */

/* What one channel's loops share. */
typedef struct {
  const l1bn_run* run;
  const l1bn_op* op;
  const l1bn_norm* norm;
  l1bn_sums sums;
  int8_t *x, *y;
  const int8_t* residual;
  l1bn_i32* kept; /* the channel's 32-bit sums, or 0: computed again */
  uint32_t pixels, channels, channel;
  int32_t rescale; /* shift of the sums */
  int32_t align;   /* shift of the residual */
} walk;

static l1bn_i32* in_state(const walk* w, uint32_t offset) {
  return (l1bn_i32*)(void*)(w->run->state + offset);
}

static int32_t sum_at(const walk* w, uint32_t pixel) {
  return l1bn_sum(&w->sums, pixel, w->channel);
}

/* Largest magnitude of the channel's sums, which stay in `kept` if there is room. */
static uint32_t channel_peak(const walk* w) {
  uint32_t peak = 0;
  for (uint32_t p = 0; p < w->pixels; ++p) {
    const int32_t sum = sum_at(w, p);
    if (w->kept != 0) w->kept[p] = sum;
    peak = l1bn_peak(peak, sum);
  }
  return peak;
}

static int8_t narrowed(const walk* w, uint32_t pixel) {
  const l1bn_noise nearest = {0, 0};
  const int32_t sum = w->kept != 0 ? w->kept[pixel] : sum_at(w, pixel);
  return (int8_t)l1bn_rescale(sum, w->rescale, 8, nearest, 0);
}

static int8_t normalized(const walk* w, const l1bn_channel* c, int32_t x, uint32_t at) {
  const int32_t half = (int32_t)1 << (c->shift - 1);
  int32_t y = (x * c->coefficient + c->offset + half) >> c->shift;
  y = l1bn_max(-128, l1bn_min(y, 127));
  if (w->residual != 0)
    y = l1bn_max(-128, l1bn_min(y + l1bn_aligned(w->residual[at], w->align), 127));
  if ((w->op->flags & L1BN_HAS_RELU) != 0) y = l1bn_max(y, 0);
  return (int8_t)y;
}

static void fold_codes(const walk* w, l1bn_channel* c) {
  const l1bn_parameter* parameters = w->run->network->parameters;
  const int32_t gamma = l1bn_code(w->run, &parameters[w->norm->gamma], w->channel, 6);
  const int32_t beta = l1bn_code(w->run, &parameters[w->norm->beta], w->channel, w->norm->fraction);
  l1bn_fold(c, gamma, beta, w->norm->fraction);
}

static int32_t toward(int32_t old, int32_t now, int32_t momentum) {
  return (int32_t)(old + ((((int64_t)now - old) * momentum + 1024) >> 11));
}

/* Move the running statistics; the first batch replaces an untrained state. */
static void follow(const walk* w, const l1bn_channel* c) {
  l1bn_i32* mean = in_state(w, w->norm->mean) + w->channel;
  l1bn_i32* variance = in_state(w, w->norm->variance) + w->channel;
  l1bn_i32* exponent = in_state(w, w->norm->exponent) + w->channel;
  const int32_t old = *exponent, seen = c->exponent;
  int32_t batch_mean, batch_variance;
  if (*in_state(w, w->norm->batches) == 0) {
    l1bn_running_of(&c->statistics, 0, &batch_mean, &batch_variance);
    *mean = batch_mean;
    *variance = batch_variance;
    *exponent = seen;
    return;
  }
  const int32_t now = l1bn_max(seen, seen <= old - 2 ? old - 1 : old);
  l1bn_running_of(&c->statistics, now - seen, &batch_mean, &batch_variance);
  *mean = toward(l1bn_coarsen(*mean, now - old), batch_mean, w->norm->momentum);
  *variance = toward(l1bn_coarsen(*variance, 2 * (now - old)), batch_variance, w->norm->momentum);
  *exponent = now;
}

static void batch_channel(const walk* w, l1bn_channel* c) {
  l1bn_statistics* s = &c->statistics;
  int32_t total = 0, high = 0, above = 0;
  for (uint32_t p = 0; p < w->pixels; ++p) {
    const int8_t x = narrowed(w, p);
    w->x[p * w->channels + w->channel] = x;
    total += x;
  }
  s->count = (int32_t)w->pixels;
  s->total = total;
  s->threshold = (int16_t)-l1bn_floor_divide(-total, s->count);
  for (uint32_t p = 0; p < w->pixels; ++p) {
    const int32_t x = w->x[p * w->channels + w->channel];
    if (x < s->threshold) continue;
    high += x;
    ++above;
  }
  s->above = above;
  l1bn_deviation(s, 2 * ((int64_t)s->count * high - (int64_t)above * total));
  c->exponent = (int16_t)(w->sums.exponent + w->rescale);
  fold_codes(w, c);
  follow(w, c);
  for (uint32_t p = 0; p < w->pixels; ++p) {
    const uint32_t at = p * w->channels + w->channel;
    w->y[at] = normalized(w, c, w->x[at], at);
  }
}

/* Shift, coefficient and offset from the running statistics. */
static void running_channel(walk* w, l1bn_channel* c) {
  const int32_t exponent = in_state(w, w->norm->exponent)[w->channel];
  w->rescale = l1bn_max(0, l1bn_min(exponent - w->sums.exponent, L1BN_MAX_SHIFT));
  c->exponent = (int16_t)(w->sums.exponent + w->rescale);
  const int32_t shift = c->exponent - exponent;
  const int32_t mean = in_state(w, w->norm->mean)[w->channel];
  const int32_t variance = in_state(w, w->norm->variance)[w->channel];
  l1bn_evaluation(&c->statistics, l1bn_coarsen(mean, shift), l1bn_coarsen(variance, 2 * shift));
  fold_codes(w, c);
}

static void folded_channel(walk* w, l1bn_channel* c) {
  const l1bn_folded* f = &w->norm->folded[w->channel];
  w->rescale = f->rescale;
  c->coefficient = f->coefficient;
  c->offset = f->offset;
  c->shift = f->shift;
}

static void constant_channel(walk* w, const l1bn_channel* c) {
  w->kept = 0;
  for (uint32_t p = 0; p < w->pixels; ++p) {
    const uint32_t at = p * w->channels + w->channel;
    const int8_t x = narrowed(w, p);
    if (w->x != 0) w->x[at] = x;
    w->y[at] = normalized(w, c, x, at);
  }
}

static int32_t shared_shift(walk* w) {
  int32_t shift = 0;
  l1bn_i32* kept = w->kept;
  w->kept = 0;
  for (w->channel = 0; w->channel < w->channels; ++w->channel) {
    l1bn_sums_channel(w->run, w->op, w->channel, &w->sums);
    shift = l1bn_max(shift, l1bn_peak_shift(channel_peak(w), 8));
  }
  w->kept = kept;
  return shift;
}

static walk walk_of(const l1bn_run* run, const l1bn_op* op) {
  walk w = {0};
  w.run = run;
  w.op = op;
  w.norm = &run->network->norms[op->norm];
  w.sums = l1bn_sums_of(run, op);
  w.x = op->x == L1BN_NONE ? 0 : l1bn_at(run, op->x);
  w.y = l1bn_at(run, op->out);
  w.pixels = run->count * l1bn_out_pixels(w.sums.window);
  w.channels = w.sums.window->out_channels;
  w.kept = op->sums == L1BN_NONE ? 0 : l1bn_at32(run, op->sums);
  if (op->b != L1BN_NONE) {
    w.residual = l1bn_at(run, op->b);
    w.align = -(int32_t)w.norm->fraction - run->exponents[op->b];
  }
  return w;
}

/* Fit the shift of a batch's channel: sums that are 8 bits already stay as they are. */
static void fit(walk* w, int32_t shared) {
  const uint32_t peak = w->sums.weight != 0 ? channel_peak(w) : 127u;
  if (w->sums.weight == 0) w->kept = 0;
  w->rescale = (w->op->flags & L1BN_SHARED_SHIFT) != 0 ? shared : l1bn_peak_shift(peak, 8);
}

void l1bn_norm_forward(const l1bn_run* run, const l1bn_op* op) {
  walk w = walk_of(run, op);
  l1bn_channel* kept =
      op->channels == L1BN_NONE ? 0 : (l1bn_channel*)(void*)l1bn_at(run, op->channels);
  const int batch = op->mode == L1BN_BATCH;
  const int shares = batch && w.sums.weight != 0 && (op->flags & L1BN_SHARED_SHIFT) != 0;
  const int32_t shared = shares ? shared_shift(&w) : 0;
  for (w.channel = 0; w.channel < w.channels; ++w.channel) {
    l1bn_channel c = {0};
    c.statistics.pow2 = (op->flags & L1BN_POW2) != 0;
    l1bn_sums_channel(run, op, w.channel, &w.sums);
    if (batch) {
      fit(&w, shared);
      batch_channel(&w, &c);
    } else {
      if (op->mode == L1BN_RUNNING) running_channel(&w, &c);
      if (op->mode == L1BN_FOLDED) folded_channel(&w, &c);
      constant_channel(&w, &c);
    }
    if (kept != 0) kept[w.channel] = c;
  }
  if (batch) *in_state(&w, w.norm->batches) += 1;
  run->exponents[op->out] = (int16_t)-w.norm->fraction;
}

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
