#include "channel.h"
#include "moving.h"
#include "parameter.h"
#include "sums.h"

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

/* Shift of the sums that brings them to the steps of the running statistics. */
static int32_t running_shift(const walk* w) {
  const int32_t exponent = in_state(w, w->norm->exponent)[w->channel];
  return l1bn_max(0, l1bn_min(exponent - w->sums.exponent, L1BN_MAX_SHIFT));
}

/* The running statistics in the steps of the data. */
static l1bn_running running_of(const walk* w, const l1bn_channel* c) {
  const int32_t shift = c->exponent - in_state(w, w->norm->exponent)[w->channel];
  const l1bn_running found = {
      l1bn_coarsen(in_state(w, w->norm->mean)[w->channel], shift),
      l1bn_coarsen(in_state(w, w->norm->variance)[w->channel], 2 * shift),
  };
  return found;
}

static void fold_average(const walk* w, l1bn_channel* c, const l1bn_running* average) {
  l1bn_evaluation(&c->statistics, (int32_t)average->mean, (int32_t)average->variance);
  fold_codes(w, c);
}

/* Shift, coefficient and offset from the running statistics. */
static void running_channel(walk* w, l1bn_channel* c) {
  w->rescale = running_shift(w);
  c->exponent = (int16_t)(w->sums.exponent + w->rescale);
  const l1bn_running running = running_of(w, c);
  fold_average(w, c, &running);
}

/* Sums of the channel, and of what is at or above a threshold. */
static l1bn_sides sides_of(const walk* w, int32_t threshold) {
  l1bn_sides s = {(int32_t)w->pixels, 0, 0, 0};
  for (uint32_t p = 0; p < w->pixels; ++p) {
    const int32_t x = w->x[p * w->channels + w->channel];
    s.total += x;
    if (x < threshold) continue;
    s.high += x;
    ++s.above;
  }
  return s;
}

static l1bn_running moved(const walk* w, const l1bn_running* from, int32_t momentum) {
  const l1bn_sides sides = sides_of(w, l1bn_threshold_of(from));
  return l1bn_toward(from, &sides, momentum);
}

/* Normalize by the running statistics, then move them; of the first batch, by its own. */
static void moving_channel(walk* w, l1bn_channel* c) {
  const int32_t batches = *in_state(w, w->norm->batches);
  const int32_t seen = w->sums.exponent + w->rescale;
  if (batches != 0) w->rescale = l1bn_max(w->rescale, running_shift(w));
  c->exponent = (int16_t)(w->sums.exponent + w->rescale);
  for (uint32_t p = 0; p < w->pixels; ++p) w->x[p * w->channels + w->channel] = narrowed(w, p);
  l1bn_running now, next;
  if (batches != 0) {
    now = running_of(w, c);
    next = moved(w, &now, l1bn_share(w->norm->momentum, batches));
  } else {
    const l1bn_sides sides = sides_of(w, 0);
    const l1bn_running start = {l1bn_batch_mean(&sides), 0};
    now = next = moved(w, &start, L1BN_WHOLE);
  }
  fold_average(w, c, &now);
  for (uint32_t p = 0; p < w->pixels; ++p) {
    const uint32_t at = p * w->channels + w->channel;
    w->y[at] = normalized(w, c, w->x[at], at);
  }
  in_state(w, w->norm->exponent)[w->channel] = c->exponent + l1bn_settle(&next, c->exponent, seen);
  in_state(w, w->norm->mean)[w->channel] = (int32_t)next.mean;
  in_state(w, w->norm->variance)[w->channel] = (int32_t)next.variance;
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
  const int batch = op->mode == L1BN_BATCH || op->mode == L1BN_MOVING;
  const int shares = batch && w.sums.weight != 0 && (op->flags & L1BN_SHARED_SHIFT) != 0;
  const int32_t shared = shares ? shared_shift(&w) : 0;
  for (w.channel = 0; w.channel < w.channels; ++w.channel) {
    l1bn_channel c = {0};
    c.statistics.pow2 = (op->flags & L1BN_POW2) != 0;
    l1bn_sums_channel(run, op, w.channel, &w.sums);
    if (batch) {
      fit(&w, shared);
      if (op->mode == L1BN_BATCH) batch_channel(&w, &c);
      if (op->mode == L1BN_MOVING) moving_channel(&w, &c);
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
