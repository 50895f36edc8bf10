// Backward pass of L1 batch normalization: reduce, then one product per element.
#pragma once
#include "int8_norm/forward.h"

namespace l1bn {
namespace int8_norm {
namespace L1BN_ISA {
namespace {

constexpr int16_t kNone = 512;  // beyond every 8-bit number: no element yet

// Sums of g and g * x, and the extremes of g on either side of the mean. The input gradient is
// linear in g there, so these give its peak without another pass.
struct Reduce {
  const int8_t *g, *y, *x;
  int8_t* masked;  // may be null
  const int16_t* threshold;
  int64_t *sums, *products;
  int16_t* extremes[4];  // least and largest below, least and largest at or above

  template <class V>
  L1BN_INLINE void column(int64_t place, int64_t lane, int64_t rows, int64_t stride) {
    if (!y)
      walk<V, false, false>(place, lane, rows, stride);
    else if (!masked)
      walk<V, true, false>(place, lane, rows, stride);
    else
      walk<V, true, true>(place, lane, rows, stride);
  }

  template <class V, bool relu, bool keep>
  L1BN_INLINE void walk(int64_t place, int64_t lane, int64_t rows, int64_t stride) {
    const V t = load<V>(threshold + lane), zero = {};
    V sum = {};
    Products<V> product;
    V low0 = load<V>(extremes[0] + lane), high0 = load<V>(extremes[1] + lane);
    V low1 = load<V>(extremes[2] + lane), high1 = load<V>(extremes[3] + lane);
    for (; rows--; place += stride) {
      V v = load<V>(g + place);
      if constexpr (relu) v = load<V>(y + place) > zero ? v : zero;
      if constexpr (keep) store(masked + place, v);
      const V data = load<V>(x + place);
      sum += v;
      product.add(v, data);
      low0 = data < t ? smaller(low0, v) : low0;
      high0 = data < t ? larger(high0, v) : high0;
      low1 = data < t ? low1 : smaller(low1, v);
      high1 = data < t ? high1 : larger(high1, v);
    }
    add_to(sums + lane, sum);
    product.add_to(products + lane);
    store(extremes[0] + lane, low0);
    store(extremes[1] + lane, high0);
    store(extremes[2] + lane, low1);
    store(extremes[3] + lane, high1);
  }
};

// dx = (g * coefficient + offset[x >= threshold]) / 2**shift
struct Spread {
  const int8_t *g, *y, *x;
  int8_t* dx;
  const int32_t *threshold, *coefficient, *offset[2], *shift;
  int32_t high;
  bool stochastic;
  uint64_t start;

  template <class V>
  L1BN_INLINE void column(int64_t place, int64_t lane, int64_t rows, int64_t stride) {
    if (stochastic)
      y ? walk<V, true, true>(place, lane, rows, stride)
        : walk<V, true, false>(place, lane, rows, stride);
    else
      y ? walk<V, false, true>(place, lane, rows, stride)
        : walk<V, false, false>(place, lane, rows, stride);
  }

  template <class V, bool random, bool relu>
  L1BN_INLINE void walk(int64_t place, int64_t lane, int64_t rows, int64_t stride) {
    const V t = load<V>(threshold + lane), c = load<V>(coefficient + lane);
    const V lower = load<V>(offset[0] + lane), upper = load<V>(offset[1] + lane);
    const V by = load<V>(shift + lane), limit = all<V>(high), one = all<V>(1), zero = {};
    const V below = by - one, down = 32 - by;
    Noise<V> noise(start, place, stride);
    for (; rows--; place += stride) {
      V v = load<V>(g + place);
      if constexpr (relu) v = load<V>(y + place) > zero ? v : zero;
      v = v * c + (load<V>(x + place) >= t ? upper : lower);
      if constexpr (random)
        v = round_noise(v, noise.next(down), below);
      else
        v = round_nearest(v, by, below, one);
      store(dx + place, clip(v, -limit, limit));
    }
  }
};

constexpr int64_t kMaxShift = 31;

class Backward {
 public:
  explicit Backward(const l1bn_int8_norm_backward_args& args)
      : a_(args),
        rows_(args.shape.rows),
        channels_(args.shape.channels),
        width_(group_width(channels_, kLanes<I16>)),
        threads_(useful_threads(rows_ * channels_, args.shape.threads)),
        scratch_(2 * Scratch::bytes<int64_t>(width_ * threads_) +
                 4 * Scratch::bytes<int16_t>(width_ * threads_) + Scratch::bytes<int16_t>(width_) +
                 5 * Scratch::bytes<int32_t>(width_) + 2 * Scratch::bytes<int64_t>(channels_) +
                 2 * Scratch::bytes<int64_t>(threads_)) {}

  int64_t run() {
    if (scratch_.failed()) return L1BN_NO_MEMORY;
    sums_ = scratch_.take<int64_t>(width_ * threads_);
    products_ = scratch_.take<int64_t>(width_ * threads_);
    for (auto& extreme : extremes_) extreme = scratch_.take<int16_t>(width_ * threads_);
    threshold_ = scratch_.take<int16_t>(width_);
    for (auto& lanes : lanes_) lanes = scratch_.take<int32_t>(width_);
    peak_ = scratch_.take<int64_t>(channels_);
    exponent_ = scratch_.take<int64_t>(channels_);
    wide_ = scratch_.take<int64_t>(threads_);
    out_ = scratch_.take<int64_t>(threads_);
    clear();
    auto body = [&](Team team) { work(team); };
    parallel_run(threads_, body);
    return too_wide(threads_) ? L1BN_TOO_WIDE : out_[0];
  }

 private:
  enum Lanes { kThreshold, kCoefficient, kLower, kUpper, kShift };

  void clear() {
    memset(sums_, 0, sizeof(int64_t) * width_ * threads_);
    memset(products_, 0, sizeof(int64_t) * width_ * threads_);
    memset(wide_, 0, sizeof(int64_t) * threads_);
    for (int i = 0; i < 4; ++i)
      for (int64_t l = 0; l < width_ * threads_; ++l) extremes_[i][l] = i % 2 ? -kNone : kNone;
    for (int64_t l = 0; l < width_; ++l)
      threshold_[l] = static_cast<int16_t>(narrow(L1BN_INT8_THRESHOLD, l % channels_));
  }
  bool too_wide(int members) const {
    for (int i = 0; i < members; ++i)
      if (wide_[i]) return true;
    return false;
  }
  int32_t narrow(int row, int64_t c) const { return a_.narrow[row * channels_ + c]; }
  int64_t wide(int row, int64_t c) const { return a_.wide[row * channels_ + c]; }

  void work(Team team) {
    const Span mine = share(channels_, team);
    const int64_t first = width_ * team.index;
    int8_t* masked = a_.y ? a_.dresidual : nullptr;
    Reduce reduce{a_.g, a_.y, a_.x, masked, threshold_, sums_ + first, products_ + first, {}};
    for (int i = 0; i < 4; ++i) reduce.extremes[i] = extremes_[i] + first;
    sweep<I16>(reduce, rows_, channels_, team);
    if (a_.dresidual && !a_.y) copy(team);
    team.wait();
    for (int64_t c = mine.begin; c < mine.end; ++c)
      if (!find_slopes(c, team.size)) wide_[team.index] = 1;
    team.wait();
    if (too_wide(team.size)) return;
    const int64_t exponent = common_exponent();
    out_[team.index] = exponent;
    for (int64_t c = mine.begin; c < mine.end; ++c) {
      const int64_t shift = most(1, least(kMaxShift, exponent - exponent_[c]));
      expand(lanes_[kShift], width_, channels_, c, static_cast<int32_t>(shift));
    }
    team.wait();
    // What the first pass masked needs no second mask.
    Spread spread{masked ? masked : a_.g,
                  masked ? nullptr : a_.y,
                  a_.x,
                  a_.dx,
                  lanes_[kThreshold],
                  lanes_[kCoefficient],
                  {lanes_[kLower], lanes_[kUpper]},
                  lanes_[kShift],
                  (1 << (a_.bits - 1)) - 1,
                  a_.rounding.stochastic != 0,
                  noise_start(a_.rounding)};
    sweep<I32>(spread, rows_, channels_, team);
  }

  void copy(Team team) const {
    const Span span = share(rows_ * channels_, team);
    memcpy(a_.dresidual + span.begin, a_.g + span.begin, span.end - span.begin);
  }

  bool find_slopes(int64_t c, int members) {
    GradientSums sums;
    sums.g = fold(sums_, width_, channels_, c, members);
    sums.product = fold(products_, width_, channels_, c, members);
    for (int bit = 0; bit < 2; ++bit) {
      sums.low[bit] = kNone;
      sums.high[bit] = -kNone;
      for (int64_t l = c; l < width_ * members; l += channels_) {
        sums.low[bit] = smaller<int32_t>(sums.low[bit], extremes_[2 * bit][l]);
        sums.high[bit] = larger<int32_t>(sums.high[bit], extremes_[2 * bit + 1][l]);
      }
    }
    BackwardScalars s;
    if (!scalars(c, sums, &s)) return false;
    const int32_t coefficient = narrow(L1BN_INT8_COEFFICIENT, c);
    a_.dgamma[c] = s.dgamma;
    a_.dbeta[c] = sums.g;
    peak_[c] = s.peak;
    exponent_[c] = a_.g_exponent - narrow(L1BN_INT8_SHIFT, c) - a_.spec.y_fraction -
                   (a_.x_exponent ? a_.x_exponent[c] : a_.x_all_exponent);
    expand(lanes_[kThreshold], width_, channels_, c, narrow(L1BN_INT8_THRESHOLD, c));
    expand(lanes_[kCoefficient], width_, channels_, c, coefficient);
    expand(lanes_[kLower], width_, channels_, c, s.offset[0]);
    expand(lanes_[kUpper], width_, channels_, c, s.offset[1]);
    return true;
  }

  bool scalars(int64_t c, const GradientSums& sums, BackwardScalars* out) const {
    const int64_t total = wide(L1BN_INT8_TOTAL, c), deviation = wide(L1BN_INT8_DEVIATION, c);
    const int32_t coefficient = narrow(L1BN_INT8_COEFFICIENT, c);
    if (a_.constant_count) {
      *out = constant_scalars(a_.constant_count, total, deviation, coefficient, sums);
      return true;
    }
    return backward_scalars(a_.spec, rows_, total, wide(L1BN_INT8_ABOVE, c), deviation,
                            narrow(L1BN_INT8_LIVE, c) != 0, coefficient,
                            narrow(L1BN_INT8_RECIPROCAL, c), sums, out);
  }

  // The smallest exponent that holds every channel; channels of zeros do not take part.
  int64_t common_exponent() const {
    int64_t out = 0;
    bool found = false;
    for (int64_t c = 0; c < channels_; ++c) {
      if (peak_[c] == 0) continue;
      const int64_t needed = exponent_[c] + most(1, peak_shift(peak_[c], a_.bits));
      out = found ? most(out, needed) : needed;
      found = true;
    }
    return out;
  }

  const l1bn_int8_norm_backward_args& a_;
  const int64_t rows_, channels_, width_;
  const int threads_;
  Scratch scratch_;
  int64_t *sums_, *products_, *peak_, *exponent_, *wide_, *out_;
  int16_t *extremes_[4], *threshold_;
  int32_t* lanes_[5];
};

int64_t backward(const l1bn_int8_norm_backward_args& a) { return Backward(a).run(); }

}  // namespace
}  // namespace L1BN_ISA
}  // namespace int8_norm
}  // namespace l1bn
