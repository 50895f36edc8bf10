#include "bytes.h"
#include "run.h"

/* A border, less than 0 where something is cut away. */
static int32_t border(uint16_t field) { return field < 0x8000u ? field : (int32_t)field - 0x10000; }

/* Height and width of an image. */
typedef struct {
  int32_t height, width;
} size;

/* Copy what two images share, `top` and `left` being where the first begins in the second. */
static void shift_images(const l1bn_run* run, const l1bn_op* op, size from, size to, int32_t top,
                         int32_t left) {
  const l1bn_window* w = &run->network->windows[op->window];
  const uint32_t taken = (uint32_t)(from.height * from.width) * w->channels;
  const uint32_t given = (uint32_t)(to.height * to.width) * w->channels;
  const int32_t first = l1bn_max(0, left), last = l1bn_min(to.width, left + from.width);
  const int8_t* a = l1bn_at(run, op->a);
  int8_t* out = l1bn_at(run, op->out);
  memset(out, 0, run->count * given);
  for (uint32_t n = 0; n < run->count; ++n) {
    for (int32_t y = l1bn_max(0, top); y < l1bn_min(to.height, top + from.height); ++y) {
      if (first >= last) break;
      const uint32_t source = (uint32_t)((y - top) * from.width + first - left) * w->channels;
      const uint32_t target = (uint32_t)(y * to.width + first) * w->channels;
      memcpy(out + n * given + target, a + n * taken + source,
             (uint32_t)(last - first) * w->channels);
    }
  }
  run->exponents[op->out] = run->exponents[op->a];
}

void l1bn_pad(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const size in = {w->height, w->width}, out = {w->out_height, w->out_width};
  shift_images(run, op, in, out, border(w->top), border(w->left));
}

void l1bn_pad_error(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const size in = {w->height, w->width}, out = {w->out_height, w->out_width};
  shift_images(run, op, out, in, -border(w->top), -border(w->left));
}

void l1bn_coarsest(const l1bn_run* run, const l1bn_op* op) {
  const int16_t own = run->exponents[op->a], found = run->exponents[op->out];
  run->exponents[op->out] = op->value != 0 || own > found ? own : found;
}

void l1bn_place(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const uint32_t pixels = run->count * l1bn_in_pixels(w);
  const int32_t shift = run->exponents[op->out] - run->exponents[op->a];
  const int8_t* a = l1bn_at(run, op->a);
  int8_t* out = l1bn_at(run, op->out) + op->value;
  for (uint32_t p = 0; p < pixels; ++p)
    for (uint32_t c = 0; c < w->channels; ++c)
      out[p * w->out_channels + c] = (int8_t)l1bn_aligned(a[p * w->channels + c], shift);
}

void l1bn_part(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const uint32_t pixels = run->count * l1bn_in_pixels(w);
  const int8_t* error = l1bn_at(run, op->a) + op->value;
  int8_t* out = l1bn_at(run, op->out);
  for (uint32_t p = 0; p < pixels; ++p)
    memcpy(out + p * w->channels, error + p * w->out_channels, w->channels);
  run->exponents[op->out] = run->exponents[op->a];
}
