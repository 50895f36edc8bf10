/* What the steps of a program share. */
#ifndef L1BN_RUN_H
#define L1BN_RUN_H

#include "l1bn_device.h"
#include "rounding.h"

/* First of the numbers in the state: the step number takes two places, then exponents and scales.
 */
#define L1BN_STEP_PLACES 2

typedef struct {
  const l1bn_network* network;
  const l1bn_tensor* tensors;
  const int8_t* images;
  const uint16_t* labels;
  uint8_t* state;
  uint8_t* arena;
  int16_t* exponents;
  uint64_t step;
  uint32_t count; /* images of every tensor */
  uint32_t image; /* the first of them, within the batch */
  uint32_t rate;
  uint32_t blocks; /* which learn in this step */
} l1bn_run;

static inline int8_t* l1bn_at(const l1bn_run* run, uint16_t tensor) {
  const l1bn_tensor t = run->tensors[tensor];
  if (t.offset == L1BN_CALLER) return (int8_t*)run->images + (uint32_t)(run->image * t.stride);
  return (int8_t*)run->arena + t.offset + (uint32_t)(run->image * t.stride);
}

static inline l1bn_i32* l1bn_at32(const l1bn_run* run, uint16_t tensor) {
  return (l1bn_i32*)(void*)l1bn_at(run, tensor);
}

static inline l1bn_i32* l1bn_numbers(const l1bn_run* run) {
  return (l1bn_i32*)(void*)(run->state + run->network->numbers);
}

/* The random bits of one rounding of a layer in this step. */
static inline l1bn_noise l1bn_noise_of(const l1bn_run* run, uint32_t site, uint32_t stream) {
  const uint64_t place = (run->step * 4096u + site) * 16u + stream;
  const l1bn_noise noise = {l1bn_stream(run->network->seed, place), run->network->stochastic};
  return noise;
}

static inline uint32_t l1bn_in_pixels(const l1bn_window* w) {
  return (uint32_t)w->height * w->width;
}

static inline uint32_t l1bn_out_pixels(const l1bn_window* w) {
  return (uint32_t)w->out_height * w->out_width;
}

static inline uint32_t l1bn_in_size(const l1bn_window* w) {
  return l1bn_in_pixels(w) * w->channels;
}

static inline uint32_t l1bn_out_size(const l1bn_window* w) {
  return l1bn_out_pixels(w) * w->out_channels;
}

/* Where the window of an output pixel lies: its image, and its corner, which padding may put
 * outside. */
typedef struct {
  uint32_t image;
  int32_t top, left;
} l1bn_corner;

static inline l1bn_corner l1bn_corner_of(const l1bn_window* w, uint32_t pixel) {
  const uint32_t pixels = l1bn_out_pixels(w), place = pixel % pixels;
  const l1bn_corner corner = {pixel / pixels,
                              (int32_t)(place / w->out_width) * w->stride_y - w->top,
                              (int32_t)(place % w->out_width) * w->stride_x - w->left};
  return corner;
}

/* The window whose tap lies at a pixel, or -1: the pixel with its padding, the tap's distance from
 * the window's start, and the distance of windows. */
static inline int32_t l1bn_window_place(uint32_t pixel, uint32_t tap, uint32_t stride) {
  const int32_t start = (int32_t)pixel - (int32_t)tap;
  if (stride == 1u || start < 0) return start;
  return (uint32_t)start % stride != 0u ? -1 : (int32_t)((uint32_t)start / stride);
}

/* The taps of a row of a window that lie within the image, and how many of them have their numbers
 * side by side: all of them, or one where there are groups or gaps. */
typedef struct {
  int32_t first, last, run;
} l1bn_taps;

static inline l1bn_taps l1bn_taps_of(const l1bn_window* w, int32_t left) {
  l1bn_taps taps = {l1bn_max(0, -left), w->width - left, 1};
  if (w->dilation_x > 1u) {
    taps.first = (taps.first + w->dilation_x - 1) / w->dilation_x;
    taps.last = (taps.last + w->dilation_x - 1) / w->dilation_x;
  }
  taps.last = l1bn_min(w->kernel_width, taps.last);
  if (w->groups == 1u && w->dilation_x == 1u) taps.run = l1bn_max(1, taps.last - taps.first);
  return taps;
}

/* Channels of the input that an output channel sees. */
static inline uint32_t l1bn_seen(const l1bn_window* w) {
  return w->groups == 1u ? w->channels : (uint32_t)w->channels / w->groups;
}

/* The first of them. */
static inline uint32_t l1bn_first_seen(const l1bn_window* w, uint32_t channel) {
  if (w->groups == 1u) return 0u;
  return channel / ((uint32_t)w->out_channels / w->groups) * l1bn_seen(w);
}

/* Shift of a layer's output: fitted to the batch and remembered, or what is remembered. */
int32_t l1bn_output_shift(const l1bn_run* run, const l1bn_op* op, uint32_t peak, int32_t exponent);

/* Whether the shift of a layer's output needs the largest magnitude of its values. */
int l1bn_needs_peak(const l1bn_run* run, const l1bn_op* op);

/* The steps, by their kind. */
void l1bn_product(const l1bn_run* run, const l1bn_op* op);
void l1bn_product_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_product_update(const l1bn_run* run, const l1bn_op* op);
void l1bn_norm_forward(const l1bn_run* run, const l1bn_op* op);
void l1bn_norm_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_add(const l1bn_run* run, const l1bn_op* op);
void l1bn_relu(const l1bn_run* run, const l1bn_op* op);
void l1bn_relu_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_flatten(const l1bn_run* run, const l1bn_op* op);
void l1bn_flatten_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_copy(const l1bn_run* run, const l1bn_op* op);
void l1bn_join(const l1bn_run* run, const l1bn_op* op);
void l1bn_average(const l1bn_run* run, const l1bn_op* op);
void l1bn_average_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_maximum(const l1bn_run* run, const l1bn_op* op);
void l1bn_maximum_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_loss(const l1bn_run* run, const l1bn_op* op);
void l1bn_dropout(const l1bn_run* run, const l1bn_op* op);
void l1bn_dropout_error(const l1bn_run* run, const l1bn_op* op);

#endif
