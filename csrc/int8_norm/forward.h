// Forward pass of L1 batch normalization: sum, split at the mean, scale.
#pragma once
#include "int8_norm/scaling.h"

namespace l1bn {
namespace int8_norm {
namespace L1BN_ISA {
namespace {

// Rescale to nearest, and sum.
struct Quantize {
  const int32_t* value;
  int8_t* x;
  Shifts shifts;
  int32_t high;
  int64_t* sums;

  template <class V>
  L1BN_INLINE void column(int64_t place, int64_t lane, int64_t rows, int64_t stride) {
    const V shift = load<V>(shifts.shift + lane), below = load<V>(shifts.below + lane);
    const V one = load<V>(shifts.one + lane), limit = all<V>(high);
    V sum = {};
    for (; rows--; place += stride) {
      const V v = round_nearest(load<V>(value + place), shift, below, one);
      const V clipped = clip(v, -limit, limit);
      store(x + place, clipped);
      sum += clipped;
    }
    add_to(sums + lane, sum);
  }
};

struct ChannelSum {
  const int8_t* x;
  int64_t* sums;

  template <class V>
  L1BN_INLINE void column(int64_t place, int64_t lane, int64_t rows, int64_t stride) {
    V sum = {};
    for (; rows--; place += stride) sum += load<V>(x + place);
    add_to(sums + lane, sum);
  }
};

// Number and sum of the elements at or above the mean.
struct Split {
  const int8_t* x;
  const int16_t* threshold;
  int64_t *counts, *sums;

  template <class V>
  L1BN_INLINE void column(int64_t place, int64_t lane, int64_t rows, int64_t stride) {
    const V t = load<V>(threshold + lane), zero = {}, one = all<V>(1);
    V count = {}, sum = {};
    for (; rows--; place += stride) {
      const V v = load<V>(x + place);
      count += v >= t ? one : zero;
      sum += v >= t ? v : zero;
    }
    add_to(counts + lane, count);
    add_to(sums + lane, sum);
  }
};

// Both, and the sum of all: a threshold that is known beforehand.
struct Sides {
  Split split;
  int64_t* totals;

  template <class V>
  L1BN_INLINE void column(int64_t place, int64_t lane, int64_t rows, int64_t stride) {
    ChannelSum{split.x, totals}.template column<V>(place, lane, rows, stride);
    split.template column<V>(place, lane, rows, stride);
  }
};

// The element path; `bias` is the offset and the half of the rounding.
struct Apply {
  const int8_t *x, *residual;
  int8_t* y;
  const int32_t *coefficient, *bias, *shift;
  int32_t low, floor, high;  // floor: 0 with a ReLU, else low

  template <class V>
  L1BN_INLINE void column(int64_t place, int64_t lane, int64_t rows, int64_t stride) {
    const V c = load<V>(coefficient + lane), b = load<V>(bias + lane), s = load<V>(shift + lane);
    const V least = all<V>(low), base = all<V>(floor), most = all<V>(high);
    if (residual) {
      for (; rows--; place += stride) {
        const V v = clip((load<V>(x + place) * c + b) >> s, least, most);
        store(y + place, clip(v + load<V>(residual + place), base, most));
      }
    } else {
      for (; rows--; place += stride)
        store(y + place, clip((load<V>(x + place) * c + b) >> s, base, most));
    }
  }
};

// Constants of the element path over the lanes of a group.
struct ApplyLanes {
  int32_t *coefficient, *bias, *shift;

  static int64_t bytes(int64_t width) { return 3 * Scratch::bytes<int32_t>(width); }
  ApplyLanes(Scratch& scratch, int64_t width)
      : coefficient(scratch.take<int32_t>(width)),
        bias(scratch.take<int32_t>(width)),
        shift(scratch.take<int32_t>(width)) {}
  L1BN_INLINE void fill(int64_t width, int64_t channels, int64_t c, int32_t factor, int32_t offset,
                        int32_t by) {
    expand(coefficient, width, channels, c, factor);
    expand(bias, width, channels, c, offset + (1 << (by - 1)));
    expand(shift, width, channels, c, by);
  }
  Apply kernel(const int8_t* x, const int8_t* residual, int8_t* y, int64_t bits, bool relu) const {
    const int32_t high = (1 << (bits - 1)) - 1, low = -high - 1;
    return {x, residual, y, coefficient, bias, shift, low, relu ? 0 : low, high};
  }
};

// ceil(total / count)
L1BN_INLINE int32_t mean_threshold(int64_t total, int64_t count) {
  const int64_t quotient = total / count;
  return static_cast<int32_t>(quotient + (total % count > 0));
}

class Forward {
 public:
  explicit Forward(const l1bn_int8_norm_forward_args& args)
      : a_(args),
        rows_(args.shape.rows),
        channels_(args.shape.channels),
        width_(group_width(channels_, kLanes<I16>)),
        threads_(useful_threads(rows_ * channels_, args.shape.threads)),
        scratch_(3 * Scratch::bytes<int64_t>(width_ * threads_) + Scratch::bytes<int16_t>(width_) +
                 Shifts::bytes(width_) + ApplyLanes::bytes(width_) +
                 Scratch::bytes<int64_t>(threads_)) {}

  int64_t run() {
    if (scratch_.failed()) return L1BN_NO_MEMORY;
    totals_ = scratch_.take<int64_t>(width_ * threads_);
    counts_ = scratch_.take<int64_t>(width_ * threads_);
    sums_ = scratch_.take<int64_t>(width_ * threads_);
    threshold_ = scratch_.take<int16_t>(width_);
    wide_ = scratch_.take<int64_t>(threads_);
    Shifts shifts(scratch_, width_);
    ApplyLanes lanes(scratch_, width_);
    memset(totals_, 0, sizeof(int64_t) * width_ * threads_);
    memset(counts_, 0, sizeof(int64_t) * width_ * threads_);
    memset(sums_, 0, sizeof(int64_t) * width_ * threads_);
    memset(wide_, 0, sizeof(int64_t) * threads_);
    if (a_.value) shifts.fill(width_, channels_, a_.value_shift, a_.value_all_shift);
    auto body = [&](Team team) { work(team, shifts, lanes); };
    parallel_run(threads_, body);
    return too_wide(threads_) ? L1BN_TOO_WIDE : 0;
  }

 private:
  bool too_wide(int members) const {
    for (int i = 0; i < members; ++i)
      if (wide_[i]) return true;
    return false;
  }

  void work(Team team, const Shifts& shifts, ApplyLanes& lanes) {
    const Span mine = share(channels_, team);
    const int64_t first = width_ * team.index;
    if (a_.value) {
      Quantize quantize{a_.value, a_.x, shifts, (1 << (a_.spec.width - 1)) - 1, totals_ + first};
      sweep<I32>(quantize, rows_, channels_, team);
    } else {
      ChannelSum sum{a_.x, totals_ + first};
      sweep<I16>(sum, rows_, channels_, team);
    }
    team.wait();
    for (int64_t c = mine.begin; c < mine.end; ++c) find_mean(c, team.size);
    team.wait();
    Split split{a_.x, threshold_, counts_ + first, sums_ + first};
    sweep<I16>(split, rows_, channels_, team);
    team.wait();
    for (int64_t c = mine.begin; c < mine.end; ++c)
      if (!find_scale(c, team.size, lanes)) wide_[team.index] = 1;
    team.wait();
    if (too_wide(team.size)) return;
    Apply apply = lanes.kernel(a_.x, a_.residual, a_.y, a_.spec.width, a_.relu != 0);
    sweep<I32>(apply, rows_, channels_, team);
  }

  void find_mean(int64_t c, int members) {
    const int64_t total = fold(totals_, width_, channels_, c, members);
    const int32_t threshold = mean_threshold(total, rows_);
    a_.wide[L1BN_INT8_TOTAL * channels_ + c] = total;
    a_.narrow[L1BN_INT8_THRESHOLD * channels_ + c] = threshold;
    expand(threshold_, width_, channels_, c, static_cast<int16_t>(threshold));
  }

  bool find_scale(int64_t c, int members, ApplyLanes& lanes) {
    const int64_t total = a_.wide[L1BN_INT8_TOTAL * channels_ + c];
    const int64_t above = fold(counts_, width_, channels_, c, members);
    const int64_t high = fold(sums_, width_, channels_, c, members);
    const int64_t deviation = 2 * (rows_ * high - above * total);
    ForwardScalars s;
    if (!forward_scalars(a_.spec, rows_, total, deviation, a_.gamma[c], a_.beta[c], &s))
      return false;
    a_.wide[L1BN_INT8_ABOVE * channels_ + c] = above;
    a_.wide[L1BN_INT8_DEVIATION * channels_ + c] = s.deviation;
    a_.narrow[L1BN_INT8_LIVE * channels_ + c] = s.live;
    a_.narrow[L1BN_INT8_COEFFICIENT * channels_ + c] = s.coefficient;
    a_.narrow[L1BN_INT8_OFFSET * channels_ + c] = s.offset;
    a_.narrow[L1BN_INT8_SHIFT * channels_ + c] = s.shift;
    a_.narrow[L1BN_INT8_RECIPROCAL * channels_ + c] = s.reciprocal;
    lanes.fill(width_, channels_, c, s.coefficient, s.offset, s.shift);
    return true;
  }

  const l1bn_int8_norm_forward_args& a_;
  const int64_t rows_, channels_, width_;
  const int threads_;
  Scratch scratch_;
  int64_t *totals_, *counts_, *sums_, *wide_;
  int16_t* threshold_;
};

int64_t forward(const l1bn_int8_norm_forward_args& a) { return Forward(a).run(); }

int64_t sides(const l1bn_int8_norm_sides_args& a) {
  const int64_t rows = a.shape.rows, channels = a.shape.channels;
  const int64_t width = group_width(channels, kLanes<I16>);
  const int threads = useful_threads(rows * channels, a.shape.threads);
  const int64_t all = width * threads;
  Scratch scratch(3 * Scratch::bytes<int64_t>(all) + Scratch::bytes<int16_t>(width));
  if (scratch.failed()) return L1BN_NO_MEMORY;
  int64_t* found[3];
  for (auto& sums : found) {
    sums = scratch.take<int64_t>(all);
    memset(sums, 0, sizeof(int64_t) * all);
  }
  int16_t* threshold = scratch.take<int16_t>(width);
  for (int64_t c = 0; c < channels; ++c)
    expand(threshold, width, channels, c, static_cast<int16_t>(a.threshold[c]));
  auto body = [&](Team team) {
    const int64_t first = width * team.index;
    Sides kernel{{a.x, threshold, found[1] + first, found[2] + first}, found[0] + first};
    sweep<I16>(kernel, rows, channels, team);
  };
  parallel_run(threads, body);
  for (int i = 0; i < 3; ++i)
    for (int64_t c = 0; c < channels; ++c)
      a.sums[i * channels + c] = fold(found[i], width, channels, c, threads);
  return 0;
}

int64_t apply(const l1bn_int8_norm_apply_args& a) {
  const int64_t channels = a.shape.channels, width = group_width(channels, kLanes<I32>);
  Scratch scratch(ApplyLanes::bytes(width));
  if (scratch.failed()) return L1BN_NO_MEMORY;
  ApplyLanes lanes(scratch, width);
  for (int64_t c = 0; c < channels; ++c) {
    if (!fits(a.coefficient[c], a.offset[c], a.shift[c])) return L1BN_TOO_WIDE;
    lanes.fill(width, channels, c, a.coefficient[c], a.offset[c], a.shift[c]);
  }
  Apply kernel = lanes.kernel(a.x, a.residual, a.y, a.width, a.relu != 0);
  auto body = [&](Team team) { sweep<I32>(kernel, a.shape.rows, channels, team); };
  parallel_run(useful_threads(a.shape.rows * channels, a.shape.threads), body);
  return 0;
}

}  // namespace
}  // namespace L1BN_ISA
}  // namespace int8_norm
}  // namespace l1bn
