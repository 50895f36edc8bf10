#include "bytes.h"
#include "run.h"

#define INVERSE_BITS 22
#define ERROR 2 /* stream of random bits */

/* 1/pixels of a window, with INVERSE_BITS fraction bits. */
static int32_t inverse_of(const l1bn_window* w) {
  const uint32_t pixels = (uint32_t)w->kernel_height * w->kernel_width;
  return (int32_t)((((uint32_t)2 << INVERSE_BITS) + pixels) / (2u * pixels));
}

/* Sum of a window, in which padding counts as zeros. */
static int32_t window_sum(const l1bn_window* w, const int8_t* a, uint32_t pixel, uint32_t channel) {
  const l1bn_view view = l1bn_view_of(w, pixel);
  const int32_t right = w->dilation_x * w->channels, down = w->dilation_y * w->width * w->channels;
  const int8_t* row = a + view.start + channel;
  int32_t total = 0;
  for (int32_t i = view.rows.first; i < view.rows.last; ++i) {
    const int8_t* from = row;
    for (int32_t j = view.columns.first; j < view.columns.last; ++j) {
      total += *from;
      from += right;
    }
    row += down;
  }
  return total;
}

void l1bn_average(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const l1bn_noise nearest = {0, 0};
  const uint32_t pixels = run->count * l1bn_out_pixels(w);
  const int32_t inverse = inverse_of(w), exponent = run->exponents[op->a] - INVERSE_BITS;
  const int8_t* a = l1bn_at(run, op->a);
  int8_t* out = l1bn_at(run, op->out);
  uint32_t peak = 0;
  if (l1bn_needs_peak(run, op)) {
    for (uint32_t p = 0; p < pixels; ++p) {
      for (uint32_t c = 0; c < w->channels; ++c) {
        peak = l1bn_peak(peak, window_sum(w, a, p, c) * inverse);
      }
    }
  }
  const int32_t shift = l1bn_output_shift(run, op, peak, exponent);
  for (uint32_t p = 0; p < pixels; ++p) {
    for (uint32_t c = 0; c < w->channels; ++c) {
      const int32_t wide = window_sum(w, a, p, c) * inverse;
      out[p * w->channels + c] = (int8_t)l1bn_rescale(wide, shift, 8, nearest, 0);
    }
  }
  run->exponents[op->out] = (int16_t)(exponent + shift);
}

/* The largest value of a window and its place; ties go to the first, in the order of rows. */
static int32_t largest(const l1bn_window* w, const int8_t* a, uint32_t pixel, uint32_t channel,
                       int8_t* place) {
  const l1bn_corner at = l1bn_corner_of(w, pixel);
  const int8_t* from = a + at.image * l1bn_in_size(w) + channel;
  int32_t best = -129;
  for (int32_t i = 0; i < w->kernel_height; ++i) {
    for (int32_t j = 0; j < w->kernel_width; ++j) {
      const int32_t y = at.top + i * w->dilation_y, x = at.left + j * w->dilation_x;
      const int inside = y >= 0 && y < w->height && x >= 0 && x < w->width;
      const int32_t value =
          inside ? from[((uint32_t)y * w->width + (uint32_t)x) * w->channels] : -128;
      if (value <= best) continue;
      best = value;
      *place = (int8_t)(i * w->kernel_width + j);
    }
  }
  return best;
}

void l1bn_maximum(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const uint32_t pixels = run->count * l1bn_out_pixels(w);
  const int8_t* a = l1bn_at(run, op->a);
  int8_t* out = l1bn_at(run, op->out);
  int8_t* places = op->x == L1BN_NONE ? 0 : l1bn_at(run, op->x);
  for (uint32_t p = 0; p < pixels; ++p) {
    for (uint32_t c = 0; c < w->channels; ++c) {
      int8_t place = 0;
      out[p * w->channels + c] = (int8_t)largest(w, a, p, c, &place);
      if (places != 0) places[p * w->channels + c] = place;
    }
  }
  run->exponents[op->out] = run->exponents[op->a];
}

/* Errors of all windows whose largest value is this one; without places, of all that hold it. */
static int32_t gathered(const l1bn_window* w, const int8_t* error, const int8_t* places,
                        uint32_t pixel, uint32_t channel) {
  const uint32_t image = pixel / l1bn_in_pixels(w), at = pixel % l1bn_in_pixels(w);
  const uint32_t y = at / w->width + w->top, x = at % w->width + w->left;
  int32_t total = 0;
  for (uint32_t i = 0; i < w->kernel_height; ++i) {
    const int32_t row = l1bn_window_place(y, i * w->dilation_y, w->stride_y);
    if (row < 0 || row >= w->out_height) continue;
    for (uint32_t j = 0; j < w->kernel_width; ++j) {
      const int32_t column = l1bn_window_place(x, j * w->dilation_x, w->stride_x);
      if (column < 0 || column >= w->out_width) continue;
      const uint32_t window = (uint32_t)row * w->out_width + (uint32_t)column;
      const uint32_t from = (image * l1bn_out_pixels(w) + window) * w->channels + channel;
      const int32_t place = (int32_t)(i * w->kernel_width + j);
      if (places == 0 || places[from] == place) total += error[from];
    }
  }
  return total;
}

/* What every pixel of the input gathers, times a factor, in `bits` bits: 0 keeps all of them. */
static void gather(const l1bn_run* run, const l1bn_op* op, const int8_t* places, int32_t factor,
                   int32_t bits) {
  const l1bn_window* w = &run->network->windows[op->window];
  const l1bn_noise noise = l1bn_noise_of(run, op->site, ERROR);
  const uint32_t pixels = run->count * l1bn_in_pixels(w);
  const int8_t* error = l1bn_at(run, op->a);
  int8_t* out = l1bn_at(run, op->out);
  int32_t shift = 0;
  for (int pass = bits == 0 ? 1 : 0; pass < 2; ++pass) {
    uint32_t peak = 0;
    for (uint32_t p = 0; p < pixels; ++p) {
      for (uint32_t c = 0; c < w->channels; ++c) {
        const int32_t sum = gathered(w, error, places, p, c) * factor;
        const uint32_t at = p * w->channels + c;
        peak = l1bn_peak(peak, sum);
        if (pass == 1) out[at] = (int8_t)l1bn_rescale(sum, shift, bits == 0 ? 8 : bits, noise, at);
      }
    }
    if (pass == 0) shift = l1bn_peak_shift(peak, bits);
  }
  run->exponents[op->out] = (int16_t)(run->exponents[op->a] + shift);
}

void l1bn_maximum_error(const l1bn_run* run, const l1bn_op* op) {
  const int disjoint = (op->flags & L1BN_DISJOINT) != 0;
  gather(run, op, l1bn_at(run, op->x), 1, disjoint ? 0 : run->network->error_bits);
}

/* First number of a window that lies within the image. */
static uint32_t start_of(const l1bn_window* w, uint32_t pixel, uint32_t channel) {
  return (uint32_t)l1bn_view_of(w, pixel).start + channel;
}

static void spread(const l1bn_window* w, int8_t* out, uint32_t pixel, uint32_t channel,
                   int8_t value) {
  int8_t* to = out + start_of(w, pixel, channel);
  for (uint32_t i = 0; i < w->kernel_height; ++i)
    for (uint32_t j = 0; j < w->kernel_width; ++j) to[(i * w->width + j) * w->channels] = value;
}

/* Windows that do not overlap: what is left out of them has no error. */
static void spread_evenly(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const l1bn_noise noise = l1bn_noise_of(run, op->site, ERROR);
  const int32_t bits = run->network->error_bits, inverse = inverse_of(w);
  const uint32_t pixels = run->count * l1bn_out_pixels(w);
  const int8_t* error = l1bn_at(run, op->a);
  int8_t* out = l1bn_at(run, op->out);
  uint32_t peak = 0;
  for (uint32_t i = 0; i < pixels * w->channels; ++i) peak = l1bn_peak(peak, error[i] * inverse);
  const int32_t shift = l1bn_peak_shift(peak, bits);
  memset(out, 0, run->count * l1bn_in_size(w));
  for (uint32_t p = 0; p < pixels; ++p) {
    for (uint32_t c = 0; c < w->channels; ++c) {
      const uint32_t at = p * w->channels + c;
      spread(w, out, p, c, (int8_t)l1bn_rescale(error[at] * inverse, shift, bits, noise, at));
    }
  }
  run->exponents[op->out] = (int16_t)(run->exponents[op->a] + shift);
}

void l1bn_average_error(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  if ((op->flags & L1BN_DISJOINT) != 0) {
    spread_evenly(run, op);
  } else {
    gather(run, op, 0, inverse_of(w), run->network->error_bits);
  }
  run->exponents[op->out] = (int16_t)(run->exponents[op->out] - INVERSE_BITS);
}

/* The windows are those of the large image. */
void l1bn_upsample(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const uint32_t pixels = run->count * l1bn_out_pixels(w);
  const int8_t* a = l1bn_at(run, op->a);
  int8_t* out = l1bn_at(run, op->out);
  for (uint32_t p = 0; p < pixels; ++p)
    for (uint32_t c = 0; c < w->channels; ++c) spread(w, out, p, c, a[p * w->channels + c]);
  run->exponents[op->out] = run->exponents[op->a];
}

void l1bn_upsample_error(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const l1bn_noise noise = l1bn_noise_of(run, op->site, ERROR);
  const uint32_t pixels = run->count * l1bn_out_pixels(w);
  const int32_t bits = run->network->error_bits;
  const int8_t* error = l1bn_at(run, op->a);
  int8_t* out = l1bn_at(run, op->out);
  uint32_t peak = 0;
  for (uint32_t p = 0; p < pixels; ++p)
    for (uint32_t c = 0; c < w->channels; ++c) peak = l1bn_peak(peak, window_sum(w, error, p, c));
  const int32_t shift = l1bn_peak_shift(peak, bits);
  for (uint32_t p = 0; p < pixels; ++p) {
    for (uint32_t c = 0; c < w->channels; ++c) {
      const uint32_t at = p * w->channels + c;
      out[at] = (int8_t)l1bn_rescale(window_sum(w, error, p, c), shift, bits, noise, at);
    }
  }
  run->exponents[op->out] = (int16_t)(run->exponents[op->a] + shift);
}
