#include "bytes.h"
#include "run.h"

#define KEEP_BITS 16
#define SCALE_BITS 8
#define ERROR 2 /* streams of random bits */
#define MASK 4

/* Which numbers stay, and their factor: drawn again where they are needed, kept nowhere. */
typedef struct {
  uint64_t start;                /* of the random bits, whatever the rounding */
  uint32_t keep, size, channels; /* channels: 0 where each number goes alone */
  int32_t factor;
} mask;

static mask mask_of(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const uint32_t keep = (uint32_t)op->scale + 1u;
  const mask m = {l1bn_noise_of(run, op->site, MASK).start, keep, l1bn_in_size(w),
                  op->value != 0 ? w->channels : 0u,
                  (int32_t)((((uint32_t)2 << (KEEP_BITS + SCALE_BITS)) + keep) / (2u * keep))};
  return m;
}

/* A number times its factor, or zero. */
static int32_t masked(const mask* m, const int8_t* from, uint32_t i) {
  const uint32_t counter = m->channels == 0u ? i : i / m->size * m->channels + i % m->channels;
  const uint32_t stays = m->keep + (l1bn_random(m->start, counter) >> (32 - KEEP_BITS));
  return stays >> KEEP_BITS != 0u ? from[i] * m->factor : 0;
}

/* Mask, and bring into `bits` bits. */
static void apply(const l1bn_run* run, const l1bn_op* op, int32_t bits, l1bn_noise noise) {
  const mask m = mask_of(run, op);
  const uint32_t count = run->count * m.size;
  const int8_t* from = l1bn_at(run, op->a);
  int8_t* out = l1bn_at(run, op->out);
  uint32_t peak = 0;
  for (uint32_t i = 0; i < count; ++i) peak = l1bn_peak(peak, masked(&m, from, i));
  const int32_t shift = l1bn_peak_shift(peak, bits);
  for (uint32_t i = 0; i < count; ++i)
    out[i] = (int8_t)l1bn_rescale(masked(&m, from, i), shift, bits, noise, i);
  run->exponents[op->out] = (int16_t)(run->exponents[op->a] - SCALE_BITS + shift);
}

void l1bn_dropout(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_noise nearest = {0, 0};
  apply(run, op, 8, nearest);
}

void l1bn_dropout_error(const l1bn_run* run, const l1bn_op* op) {
  apply(run, op, run->network->error_bits, l1bn_noise_of(run, op->site, ERROR));
}
