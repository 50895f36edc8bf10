#include "bytes.h"
#include "run.h"

#define MAX_GAP 16 /* bits by which exponents may differ before the smaller term loses bits */
#define JOIN_SITE 1024u

static uint32_t in_values(const l1bn_run* run, const l1bn_op* op) {
  return run->count * l1bn_in_size(&run->network->windows[op->window]);
}

void l1bn_add(const l1bn_run* run, const l1bn_op* op) {
  const int8_t *a = l1bn_at(run, op->a), *b = l1bn_at(run, op->b);
  const int32_t a_exponent = run->exponents[op->a], b_exponent = run->exponents[op->b];
  const int32_t exponent = l1bn_max(-(int32_t)op->value, l1bn_max(a_exponent, b_exponent));
  const uint32_t count = in_values(run, op);
  int8_t* out = l1bn_at(run, op->out);
  for (uint32_t i = 0; i < count; ++i) {
    const int32_t sum =
        l1bn_aligned(a[i], exponent - a_exponent) + l1bn_aligned(b[i], exponent - b_exponent);
    out[i] = (int8_t)l1bn_max(-127, l1bn_min(sum, 127));
  }
  run->exponents[op->out] = (int16_t)exponent;
}

/* 6 in steps of 2**exponent, to nearest; what 8 bits cannot reach is no limit. */
static int32_t six(int32_t exponent) {
  const int32_t down = l1bn_min(exponent, 16);
  return down <= 0 ? 6 << l1bn_min(-down, 16) : (6 + (1 << (down - 1))) >> down;
}

/* The largest output of a ReLU, which no number reaches that has a gradient. */
static int32_t limit_of(const l1bn_op* op, int32_t exponent) {
  return (op->flags & L1BN_SIX) != 0 ? six(exponent) : 128;
}

void l1bn_relu(const l1bn_run* run, const l1bn_op* op) {
  const int8_t* a = l1bn_at(run, op->a);
  int8_t* out = l1bn_at(run, op->out);
  const uint32_t count = in_values(run, op);
  const int32_t limit = limit_of(op, run->exponents[op->a]);
  for (uint32_t i = 0; i < count; ++i) out[i] = (int8_t)l1bn_max(0, l1bn_min(a[i], limit));
  run->exponents[op->out] = run->exponents[op->a];
}

void l1bn_relu_error(const l1bn_run* run, const l1bn_op* op) {
  int8_t* error = l1bn_at(run, op->a);
  const int8_t* y = l1bn_at(run, op->y);
  const uint32_t count = in_values(run, op);
  const int32_t limit = limit_of(op, run->exponents[op->y]);
  for (uint32_t i = 0; i < count; ++i)
    if (y[i] <= 0 || y[i] >= limit) error[i] = 0;
}

/* Channels last to channels first, image by image, or back. */
static void transpose(const l1bn_run* run, const l1bn_op* op, int back) {
  const l1bn_window* w = &run->network->windows[op->window];
  const uint32_t pixels = l1bn_in_pixels(w), size = l1bn_in_size(w);
  const int8_t* from = l1bn_at(run, op->a);
  int8_t* to = l1bn_at(run, op->out);
  for (uint32_t n = 0; n < run->count; ++n) {
    for (uint32_t p = 0; p < pixels; ++p) {
      for (uint32_t c = 0; c < w->channels; ++c) {
        const uint32_t last = n * size + p * w->channels + c, first = n * size + c * pixels + p;
        if (back) {
          to[last] = from[first];
        } else {
          to[first] = from[last];
        }
      }
    }
  }
  run->exponents[op->out] = run->exponents[op->a];
}

void l1bn_flatten(const l1bn_run* run, const l1bn_op* op) { transpose(run, op, 0); }

void l1bn_flatten_error(const l1bn_run* run, const l1bn_op* op) { transpose(run, op, 1); }

void l1bn_copy(const l1bn_run* run, const l1bn_op* op) {
  memcpy(l1bn_at(run, op->out), l1bn_at(run, op->a), in_values(run, op));
  run->exponents[op->out] = run->exponents[op->a];
}

static int is_zero(const int8_t* values, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i)
    if (values[i] != 0) return 0;
  return 1;
}

static int32_t align_wide(int32_t value, int32_t shift) {
  if (shift >= 0) return value * (int32_t)((uint32_t)1 << shift);
  return (int32_t)l1bn_nearest(value, l1bn_min(-shift, L1BN_MAX_SHIFT));
}

void l1bn_join(const l1bn_run* run, const l1bn_op* op) {
  const uint32_t count = in_values(run, op);
  const int32_t bits = run->network->error_bits;
  const l1bn_noise noise = l1bn_noise_of(run, JOIN_SITE + op->site, 0);
  const int8_t* more = l1bn_at(run, op->a);
  int8_t* have = l1bn_at(run, op->out);
  /* zeros have no exponent that the sum should respect */
  if (is_zero(have, count)) {
    memcpy(have, more, count);
    run->exponents[op->out] = run->exponents[op->a];
    return;
  }
  if (is_zero(more, count)) return;
  const int32_t a = run->exponents[op->out], b = run->exponents[op->a];
  const int32_t exponent = l1bn_max(l1bn_min(a, b), l1bn_max(a, b) - MAX_GAP);
  uint32_t peak = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const int32_t sum = align_wide(have[i], a - exponent) + align_wide(more[i], b - exponent);
    peak = l1bn_peak(peak, sum);
  }
  const int32_t shift = l1bn_peak_shift(peak, bits);
  for (uint32_t i = 0; i < count; ++i) {
    const int32_t sum = align_wide(have[i], a - exponent) + align_wide(more[i], b - exponent);
    have[i] = (int8_t)l1bn_rescale(sum, shift, bits, noise, i);
  }
  run->exponents[op->out] = (int16_t)(exponent + shift);
}
