#include "sums.h"

#include "dot.h"
#include "parameter.h"

const int8_t* l1bn_narrow(const l1bn_run* run, const l1bn_op* op, int8_t* scratch,
                          int32_t* exponent) {
  const l1bn_parameter* p = &run->network->parameters[op->weight];
  if (!p->learns) {
    *exponent = p->exponent;
    return (const int8_t*)p->fixed;
  }
  const l1bn_i16* master = l1bn_master(run, p);
  const int32_t shift = l1bn_peak_shift(l1bn_master_peak(run, p), 8);
  for (uint32_t i = 0; i < p->count; ++i) scratch[i] = (int8_t)l1bn_rounded(master[i], shift);
  *exponent = l1bn_numbers(run)[p->slot] + shift;
  return scratch;
}

l1bn_sums l1bn_sums_of(const l1bn_run* run, const l1bn_op* op) {
  l1bn_sums sums = {&run->network->windows[op->window], l1bn_at(run, op->a), 0, 0,
                    run->exponents[op->a]};
  if (op->weight != L1BN_NONE) {
    int8_t* scratch = op->scratch == L1BN_NONE ? 0 : l1bn_at(run, op->scratch);
    int32_t exponent;
    sums.weight = l1bn_narrow(run, op, scratch, &exponent);
    sums.exponent += exponent;
  }
  return sums;
}

void l1bn_sums_channel(const l1bn_run* run, const l1bn_op* op, uint32_t channel, l1bn_sums* sums) {
  if (op->bias == L1BN_NONE) return;
  const l1bn_parameter* p = &run->network->parameters[op->bias];
  const int32_t shift = l1bn_parameter_exponent(run, p) - sums->exponent;
  int64_t value = l1bn_master(run, p)[channel];
  if (shift >= 0) {
    value = l1bn_scaled(value, l1bn_min(shift, 40));
  } else {
    value = l1bn_nearest(value, l1bn_min(-shift, 62));
  }
  sums->bias = (int32_t)l1bn_clip(value, -((int64_t)1 << 30), (int64_t)1 << 30);
}

/* The sum of the taps that a view leaves; `row`: weights of a row of taps. */
static int32_t view_sum(const l1bn_window* w, const l1bn_view* view, const int8_t* x,
                        const int8_t* weight, uint32_t row) {
  const uint32_t down = (uint32_t)w->dilation_y * w->width * w->channels;
  const uint32_t seen = l1bn_seen(w), taps = (uint32_t)(view->columns.last - view->columns.first);
  int32_t total = 0;
  for (int32_t i = view->rows.first; i < view->rows.last; ++i, x += down, weight += row) {
    if (l1bn_side_by_side(w)) {
      total += l1bn_dot(x, weight, taps * seen);
      continue;
    }
    for (uint32_t j = 0; j < taps; ++j)
      total += l1bn_dot(x + j * w->dilation_x * w->channels, weight + j * seen, seen);
  }
  return total;
}

int32_t l1bn_sum(const l1bn_sums* sums, uint32_t pixel, uint32_t channel) {
  const l1bn_window* w = sums->window;
  if (sums->weight == 0) return sums->x[pixel * w->channels + channel];
  const l1bn_view view = l1bn_view_of(w, pixel);
  const uint32_t seen = l1bn_seen(w), row = (uint32_t)w->kernel_width * seen;
  const int8_t* x = sums->x + view.start + l1bn_first_seen(w, channel);
  const uint32_t first = (uint32_t)view.rows.first * row + (uint32_t)view.columns.first * seen;
  const int8_t* weight = sums->weight + channel * w->kernel_height * row + first;
  return sums->bias + view_sum(w, &view, x, weight, row);
}
