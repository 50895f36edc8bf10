/* Sizes of a layer, and where its windows lie. */
#ifndef L1BN_WINDOW_H
#define L1BN_WINDOW_H

#include "l1bn_device.h"
#include "rounding.h"

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
  const uint32_t pixels = l1bn_out_pixels(w), image = pixel / pixels;
  const uint32_t place = pixel - image * pixels, row = place / w->out_width;
  const uint32_t column = place - row * w->out_width;
  const l1bn_corner corner = {image, (int32_t)(row * w->stride_y) - w->top,
                              (int32_t)(column * w->stride_x) - w->left};
  return corner;
}

/* The taps of a window, down or across, that lie within the image: from `first` to before `last`.
 */
typedef struct {
  int32_t first, last;
} l1bn_taps;

static inline l1bn_taps l1bn_taps_of(int32_t start, int32_t size, int32_t kernel,
                                     int32_t dilation) {
  l1bn_taps taps = {l1bn_max(0, -start), size - start};
  if (dilation > 1) {
    taps.first = (taps.first + dilation - 1) / dilation;
    taps.last = (taps.last + dilation - 1) / dilation;
  }
  taps.last = l1bn_max(taps.first, l1bn_min(kernel, taps.last));
  return taps;
}

/* What of a window lies within the image. */
typedef struct {
  l1bn_taps rows, columns;
  int32_t start; /* number of the tensor at the first of these taps, of the first channel */
} l1bn_view;

static inline l1bn_view l1bn_view_of(const l1bn_window* w, uint32_t pixel) {
  const l1bn_corner at = l1bn_corner_of(w, pixel);
  l1bn_view view = {l1bn_taps_of(at.top, w->height, w->kernel_height, w->dilation_y),
                    l1bn_taps_of(at.left, w->width, w->kernel_width, w->dilation_x), 0};
  const int32_t y = at.top + view.rows.first * w->dilation_y;
  const int32_t x = at.left + view.columns.first * w->dilation_x;
  view.start = (int32_t)(at.image * l1bn_in_size(w)) + (y * w->width + x) * w->channels;
  return view;
}

/* Whether the numbers of a row of taps lie side by side. */
static inline int l1bn_side_by_side(const l1bn_window* w) {
  return w->groups == 1u && w->dilation_x == 1u;
}

/* The window whose tap lies at a pixel, or -1: the pixel with its padding, the tap's distance from
 * the window's start, and the distance of windows. */
static inline int32_t l1bn_window_place(uint32_t pixel, uint32_t tap, uint32_t stride) {
  const int32_t start = (int32_t)pixel - (int32_t)tap;
  if (stride == 1u || start < 0) return start;
  return (uint32_t)start % stride != 0u ? -1 : (int32_t)((uint32_t)start / stride);
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

#endif
