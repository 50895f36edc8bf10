#include "bytes.h"
#include "dot.h"
#include "parameter.h"
#include "sums.h"

#define GRADIENT 0 /* streams of random bits */
#define ERROR 1

int l1bn_needs_peak(const l1bn_run* run, const l1bn_op* op) {
  return (op->flags & L1BN_TRAINS) != 0 || l1bn_numbers(run)[op->scale + 1] == 0;
}

int32_t l1bn_output_shift(const l1bn_run* run, const l1bn_op* op, uint32_t peak, int32_t exponent) {
  l1bn_i32* scale = l1bn_numbers(run) + op->scale;
  if (!l1bn_needs_peak(run, op)) return l1bn_max(0, l1bn_min(scale[0] - exponent, L1BN_MAX_SHIFT));
  const int32_t shift = l1bn_peak_shift(peak, 8), now = exponent + shift;
  if ((op->flags & L1BN_TRAINS) == 0) return shift;
  if (scale[1] != 0) {
    /* up at once, down by one when a batch stays two below */
    const int32_t lowered = now <= scale[0] - 2 ? scale[0] - 1 : scale[0];
    scale[0] = l1bn_max(now, lowered);
  } else {
    scale[0] = now;
    scale[1] = 1;
  }
  return shift;
}

static void wide_product(const l1bn_run* run, const l1bn_op* op, l1bn_sums* sums) {
  const l1bn_window* w = sums->window;
  const uint32_t pixels = run->count * l1bn_out_pixels(w);
  l1bn_i32* out = l1bn_at32(run, op->out);
  for (uint32_t k = 0; k < w->out_channels; ++k) {
    l1bn_sums_channel(run, op, k, sums);
    for (uint32_t p = 0; p < pixels; ++p) out[p * w->out_channels + k] = l1bn_sum(sums, p, k);
  }
  run->exponents[op->out] = (int16_t)sums->exponent;
}

static uint32_t product_peak(const l1bn_run* run, const l1bn_op* op, l1bn_sums* sums) {
  const l1bn_window* w = sums->window;
  const uint32_t pixels = run->count * l1bn_out_pixels(w);
  uint32_t peak = 0;
  for (uint32_t k = 0; k < w->out_channels; ++k) {
    l1bn_sums_channel(run, op, k, sums);
    for (uint32_t p = 0; p < pixels; ++p) peak = l1bn_peak(peak, l1bn_sum(sums, p, k));
  }
  return peak;
}

void l1bn_product(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_noise nearest = {0, 0};
  l1bn_sums sums = l1bn_sums_of(run, op);
  const l1bn_window* w = sums.window;
  const uint32_t pixels = run->count * l1bn_out_pixels(w);
  if ((op->flags & L1BN_WIDE) != 0) {
    wide_product(run, op, &sums);
    return;
  }
  const uint32_t peak = l1bn_needs_peak(run, op) ? product_peak(run, op, &sums) : 0u;
  const int32_t shift = l1bn_output_shift(run, op, peak, sums.exponent);
  int8_t* out = l1bn_at(run, op->out);
  for (uint32_t k = 0; k < w->out_channels; ++k) {
    l1bn_sums_channel(run, op, k, &sums);
    for (uint32_t p = 0; p < pixels; ++p) {
      const int32_t sum = l1bn_sum(&sums, p, k);
      out[p * w->out_channels + k] = (int8_t)l1bn_rescale(sum, shift, 8, nearest, 0);
    }
  }
  run->exponents[op->out] = (int16_t)(sums.exponent + shift);
}

/* Products of the errors of one output pixel with one tap of every output channel; `stride`: from
 * one channel's tap to the next one's. */
static void tap_sums(const l1bn_window* w, const int8_t* error, const int8_t* tap, uint32_t stride,
                     l1bn_i32* sums) {
  const uint32_t seen = l1bn_seen(w);
  const uint32_t outputs =
      w->groups == 1u ? w->out_channels : (uint32_t)w->out_channels / w->groups;
  for (uint32_t g = 0; g < w->groups; ++g, sums += seen) {
    const int8_t* waits = 0; /* a tap that goes with the next one */
    int8_t its_error = 0;
    for (uint32_t k = 0; k < outputs; ++k, ++error, tap += stride) {
      if (*error == 0) continue;
      if (waits != 0) l1bn_axpy2(sums, waits, its_error, tap, *error, seen);
      waits = waits != 0 ? 0 : tap;
      its_error = *error;
    }
    if (waits != 0) l1bn_axpy(sums, waits, its_error, seen);
  }
}

/* Sums of all products that reach one input pixel, a number per channel. */
static void input_sums(const l1bn_window* w, const int8_t* error, const int8_t* weight, uint32_t y,
                       uint32_t x, l1bn_i32* sums) {
  const uint32_t taps = (uint32_t)w->kernel_height * w->kernel_width, seen = l1bn_seen(w);
  memset(sums, 0, w->channels * sizeof(int32_t));
  for (uint32_t i = 0; i < w->kernel_height; ++i) {
    const int32_t row = l1bn_window_place(y + w->top, i * w->dilation_y, w->stride_y);
    if (row < 0 || row >= w->out_height) continue;
    for (uint32_t j = 0; j < w->kernel_width; ++j) {
      const int32_t column = l1bn_window_place(x + w->left, j * w->dilation_x, w->stride_x);
      if (column < 0 || column >= w->out_width) continue;
      const uint32_t place = (uint32_t)row * w->out_width + (uint32_t)column;
      tap_sums(w, error + place * w->out_channels, weight + (i * w->kernel_width + j) * seen,
               taps * seen, sums);
    }
  }
}

static uint32_t peak_of(const l1bn_i32* sums, uint32_t count, uint32_t peak) {
  for (uint32_t i = 0; i < count; ++i) peak = l1bn_peak(peak, sums[i]);
  return peak;
}

void l1bn_product_error(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const int32_t bits = run->network->error_bits;
  const l1bn_noise noise = l1bn_noise_of(run, op->site, ERROR);
  const int twice = (op->flags & L1BN_TWICE) != 0;
  const uint32_t size = l1bn_out_size(w), pixels = run->count * l1bn_in_pixels(w);
  int32_t exponent, shift = 0;
  int8_t* scratch = op->scratch == L1BN_NONE ? 0 : l1bn_at(run, op->scratch);
  const int8_t* weight = l1bn_narrow(run, op, scratch, &exponent);
  const int8_t* error = l1bn_at(run, op->a);
  int8_t* out = l1bn_at(run, op->out);
  l1bn_i32* sums = l1bn_at32(run, op->sums);
  uint32_t peak = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (uint32_t p = 0; p < pixels; ++p) {
      const uint32_t image = p / l1bn_in_pixels(w), place = p % l1bn_in_pixels(w);
      const uint32_t at = p * w->channels;
      l1bn_i32* here = twice ? sums : sums + at;
      if (pass == 0 || twice)
        input_sums(w, error + image * size, weight, place / w->width, place % w->width, here);
      if (pass == 0) {
        peak = peak_of(here, w->channels, peak);
        continue;
      }
      for (uint32_t c = 0; c < w->channels; ++c)
        out[at + c] = (int8_t)l1bn_rescale(here[c], shift, bits, noise, at + c);
    }
    shift = l1bn_peak_shift(peak, bits);
  }
  run->exponents[op->out] = (int16_t)(run->exponents[op->a] + exponent + shift);
}

/* An output pixel with an error of a channel, and what its window sees. */
typedef struct {
  const int8_t* x; /* at the first tap within the image */
  int32_t error;   /* 0: no pixel */
  l1bn_view view;
} pixel_error;

/* Products of a pixel's error with what each weight saw, and of a second pixel whose window loses
 * as much at the borders. */
static void add_errors(const l1bn_window* w, const pixel_error* a, const pixel_error* b,
                       l1bn_i32* sums) {
  const l1bn_taps rows = a->view.rows, columns = a->view.columns;
  const uint32_t seen = l1bn_seen(w), row = (uint32_t)w->kernel_width * seen;
  const uint32_t down = (uint32_t)w->dilation_y * w->width * w->channels;
  const uint32_t across = (uint32_t)w->dilation_x * w->channels;
  const uint32_t taps = (uint32_t)(columns.last - columns.first);
  const uint32_t runs = l1bn_side_by_side(w) ? (taps != 0u) : taps;
  const uint32_t count = l1bn_side_by_side(w) ? taps * seen : seen;
  sums += (uint32_t)rows.first * row + (uint32_t)columns.first * seen;
  for (uint32_t i = 0; i < (uint32_t)(rows.last - rows.first); ++i, sums += row) {
    for (uint32_t j = 0; j < runs; ++j) {
      const uint32_t at = i * down + j * across;
      if (b->error != 0) {
        l1bn_axpy2(sums + j * seen, a->x + at, a->error, b->x + at, b->error, count);
      } else {
        l1bn_axpy(sums + j * seen, a->x + at, a->error, count);
      }
    }
  }
}

static int alike(const l1bn_view* a, const l1bn_view* b) {
  return a->rows.first == b->rows.first && a->rows.last == b->rows.last &&
         a->columns.first == b->columns.first && a->columns.last == b->columns.last;
}

/* Products of one output channel's errors with what each of its weights saw. */
static void weight_sums(const l1bn_window* w, const int8_t* x, const int8_t* error, uint32_t images,
                        uint32_t channel, l1bn_i32* sums) {
  const pixel_error none = {0};
  pixel_error waits = none; /* a pixel that goes with the next one, if they are alike */
  x += l1bn_first_seen(w, channel);
  memset(sums, 0, w->kernel_height * w->kernel_width * l1bn_seen(w) * sizeof(int32_t));
  for (uint32_t p = 0; p < images * l1bn_out_pixels(w); ++p) {
    const int32_t e = error[p * w->out_channels + channel];
    if (e == 0) continue;
    pixel_error now = {x, e, l1bn_view_of(w, p)};
    now.x += now.view.start;
    if (waits.error == 0) {
      waits = now;
    } else if (alike(&waits.view, &now.view)) {
      add_errors(w, &waits, &now, sums);
      waits = none;
    } else {
      add_errors(w, &waits, &none, sums);
      waits = now;
    }
  }
  if (waits.error != 0) add_errors(w, &waits, &none, sums);
}

static void update_weight(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const l1bn_parameter* p = &run->network->parameters[op->weight];
  const int32_t bits = run->network->error_bits;
  const l1bn_noise noise = l1bn_noise_of(run, op->site, GRADIENT);
  const int twice = (op->flags & L1BN_TWICE) != 0;
  const uint32_t row = p->count / w->out_channels;
  const int8_t *x = l1bn_at(run, op->x), *error = l1bn_at(run, op->a);
  l1bn_i32* sums = l1bn_at32(run, op->sums);
  int8_t* narrow = twice ? l1bn_at(run, op->scratch) : l1bn_at(run, op->sums);
  uint32_t peak = 0;
  int32_t shift = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (uint32_t k = 0; k < w->out_channels; ++k) {
      l1bn_i32* here = twice ? sums : sums + k * row;
      if (pass == 0 || twice) weight_sums(w, x, error, run->count, k, here);
      if (pass == 0) {
        peak = peak_of(here, row, peak);
        continue;
      }
      /* without `twice`, 8 bits take the place of 32 that were read before */
      for (uint32_t i = 0; i < row; ++i)
        narrow[k * row + i] = (int8_t)l1bn_rescale(here[i], shift, bits, noise, k * row + i);
    }
    shift = l1bn_peak_shift(peak, bits);
  }
  const l1bn_gradient gradient = {narrow, 0, run->exponents[op->x] + run->exponents[op->a] + shift,
                                  l1bn_bits(op->blocks) - 1};
  l1bn_sgd_step(run, p, &gradient);
}

static void update_bias(const l1bn_run* run, const l1bn_op* op) {
  const l1bn_window* w = &run->network->windows[op->window];
  const int8_t* error = l1bn_at(run, op->a);
  l1bn_i64* sums = (l1bn_i64*)(void*)l1bn_at(run, op->channels);
  for (uint32_t k = 0; k < w->out_channels; ++k) {
    int32_t total = 0;
    for (uint32_t p = 0; p < run->count * l1bn_out_pixels(w); ++p)
      total += error[p * w->out_channels + k];
    sums[k] = total;
  }
  const l1bn_gradient gradient = {0, sums, run->exponents[op->a], l1bn_bits(op->blocks) - 1};
  l1bn_sgd_step(run, &run->network->parameters[op->bias], &gradient);
}

void l1bn_product_update(const l1bn_run* run, const l1bn_op* op) {
  if (op->weight != L1BN_NONE) update_weight(run, op);
  if (op->bias != L1BN_NONE) update_bias(run, op);
}
