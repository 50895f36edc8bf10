// Rescaling, the largest magnitude, and the addition of scaled tensors.
#pragma once
#include "int8_norm/kernels.h"
#include "int8_norm/scalars.h"
#include "int8_norm/vectors/noise.h"
#include "int8_norm/vectors/rows.h"

namespace l1bn {
namespace int8_norm {
namespace L1BN_ISA {
namespace {

// Shifts of 0 to 31 over the lanes of a group.
struct Shifts {
  int32_t *shift, *below, *one;

  static int64_t bytes(int64_t width) { return 3 * Scratch::bytes<int32_t>(width); }
  Shifts(Scratch& scratch, int64_t width)
      : shift(scratch.take<int32_t>(width)),
        below(scratch.take<int32_t>(width)),
        one(scratch.take<int32_t>(width)) {}
  void fill(int64_t width, int64_t channels, const int32_t* each, int64_t common) {
    for (int64_t lane = 0; lane < width; ++lane) {
      shift[lane] = each ? each[lane % channels] : static_cast<int32_t>(common);
      below[lane] = shift[lane] ? shift[lane] - 1 : 0;
      one[lane] = shift[lane] > 0;
    }
  }
};

struct Rescale {
  const int32_t* value;
  int8_t* out;
  Shifts shifts;
  int32_t high;
  bool stochastic;
  uint64_t start;

  template <class V>
  L1BN_INLINE void column(int64_t place, int64_t lane, int64_t rows, int64_t stride) {
    const V shift = load<V>(shifts.shift + lane), below = load<V>(shifts.below + lane);
    const V one = load<V>(shifts.one + lane), limit = all<V>(high);
    if (!stochastic) {
      for (; rows--; place += stride) {
        const V v = round_nearest(load<V>(value + place), shift, below, one);
        store(out + place, clip(v, -limit, limit));
      }
      return;
    }
    Noise<V> noise(start, place, stride);
    const V down = 31 - below;
    for (; rows--; place += stride) {
      const V v = load<V>(value + place), rounded = round_noise(v, noise.next(down), below);
      store(out + place, clip<V>(shift > 0 ? rounded : v, -limit, limit));
    }
  }
};

int64_t rescale(const l1bn_int8_rescale_args& a) {
  const l1bn_int8_shape& s = a.shape;
  const int64_t width = group_width(s.channels, kLanes<I32>);
  Scratch scratch(Shifts::bytes(width));
  if (scratch.failed()) return L1BN_NO_MEMORY;
  Rescale kernel{a.value,
                 a.out,
                 Shifts(scratch, width),
                 (1 << (a.bits - 1)) - 1,
                 a.rounding.stochastic != 0,
                 noise_start(a.rounding)};
  kernel.shifts.fill(width, s.channels, a.shift, a.all_shift);
  auto body = [&](Team team) { sweep<I32>(kernel, s.rows, s.channels, team); };
  parallel_run(useful_threads(s.rows * s.channels, s.threads), body);
  return 0;
}

// Least and largest number of one member's share.
struct Extremes {
  int32_t low = 0, high = 0;

  template <class V>
  L1BN_INLINE void take(V lows, V highs) {
    int32_t each_low[kLanes<V>], each_high[kLanes<V>];
    store(each_low, lows);
    store(each_high, highs);
    for (int i = 0; i < kLanes<V>; ++i) {
      low = smaller(low, each_low[i]);
      high = larger(high, each_high[i]);
    }
  }
};

struct Peak {
  const int32_t* value;
  Extremes found;

  template <class V>
  L1BN_INLINE void column(int64_t place, int64_t, int64_t rows, int64_t stride) {
    V low = all<V>(0), high = all<V>(0);
    for (; rows--; place += stride) {
      const V v = load<V>(value + place);
      low = smaller(low, v);
      high = larger(high, v);
    }
    found.take(low, high);
  }
};

L1BN_INLINE int64_t merge(const Extremes* members, int count) {
  int64_t peak = 0;
  for (int i = 0; i < count; ++i)
    peak = most(peak, most(-static_cast<int64_t>(members[i].low), members[i].high));
  return peak;
}

int64_t peak(const l1bn_int8_peak_args& a) {
  // Channels do not matter: rows of one vector.
  const int64_t count = a.shape.rows * a.shape.channels;
  const int threads = useful_threads(count, a.shape.threads);
  Scratch scratch(Scratch::bytes<Extremes>(threads));
  if (scratch.failed()) return L1BN_NO_MEMORY;
  Extremes* members = scratch.take<Extremes>(threads);
  int size = 1;
  auto body = [&](Team team) {
    Peak kernel{a.value, {}};
    sweep<I32>(kernel, count, 1, team);
    members[team.index] = kernel.found;
    if (team.index == 0) size = team.size;
  };
  parallel_run(threads, body);
  return merge(members, size);
}

// a * 2**a_shift + b * 2**b_shift, a negative shift to nearest.
struct Sum {
  const int8_t *a, *b;
  int32_t a_up, b_up, a_down, b_down;

  static Sum of(const l1bn_int8_add_args& args, int64_t exponent) {
    const int64_t a = args.a_exponent - exponent, b = args.b_exponent - exponent;
    return {args.a, args.b, positive(a), positive(b), positive(-a), positive(-b)};
  }
  static int32_t positive(int64_t shift) { return static_cast<int32_t>(least(31, most(0, shift))); }
  template <class V>
  static L1BN_INLINE V align(V value, int32_t up, int32_t down) {
    return round_nearest<V>(value * (1 << up), all<V>(down), all<V>(down ? down - 1 : 0),
                            all<V>(down > 0));
  }
  template <class V>
  L1BN_INLINE V at(int64_t place) const {
    return align(load<V>(a + place), a_up, a_down) + align(load<V>(b + place), b_up, b_down);
  }
};

struct SumPeak {
  Sum sum;
  Extremes found;
  template <class V>
  L1BN_INLINE void column(int64_t place, int64_t, int64_t rows, int64_t stride) {
    V low = all<V>(0), high = all<V>(0);
    for (; rows--; place += stride) {
      const V v = sum.at<V>(place);
      low = smaller(low, v);
      high = larger(high, v);
    }
    found.take(low, high);
  }
};

struct SumRescale {
  Sum sum;
  int8_t* out;
  int32_t shift, high;
  bool stochastic;
  uint64_t start;
  template <class V>
  L1BN_INLINE void column(int64_t place, int64_t, int64_t rows, int64_t stride) {
    const V limit = all<V>(high), by = all<V>(shift), below = all<V>(shift ? shift - 1 : 0);
    if (!stochastic || shift == 0) {
      const V one = all<V>(shift > 0);
      for (; rows--; place += stride)
        store(out + place, clip(round_nearest(sum.at<V>(place), by, below, one), -limit, limit));
      return;
    }
    Noise<V> noise(start, place, stride);
    const V down = 32 - by;
    for (; rows--; place += stride) {
      const V v = (sum.at<V>(place) + noise.next(down)) >> by;
      store(out + place, clip(v, -limit, limit));
    }
  }
};

constexpr int64_t kMaxGap = 16;

int64_t add(const l1bn_int8_add_args& args) {
  const int64_t high = most(args.a_exponent, args.b_exponent);
  const int64_t exponent = most(least(args.a_exponent, args.b_exponent), high - kMaxGap);
  const Sum sum = Sum::of(args, exponent);
  const int threads = useful_threads(args.count, args.threads);
  Scratch scratch(Scratch::bytes<Extremes>(threads));
  if (scratch.failed()) return L1BN_NO_MEMORY;
  Extremes* members = scratch.take<Extremes>(threads);
  int64_t shift = 0;
  auto body = [&](Team team) {
    SumPeak first{sum, {}};
    sweep<I32>(first, args.count, 1, team);
    members[team.index] = first.found;
    team.wait();
    const int64_t mine = peak_shift(merge(members, team.size), args.bits);
    if (team.index == 0) shift = mine;
    SumRescale second{sum,
                      args.out,
                      static_cast<int32_t>(mine),
                      (1 << (args.bits - 1)) - 1,
                      args.rounding.stochastic != 0,
                      noise_start(args.rounding)};
    sweep<I32>(second, args.count, 1, team);
  };
  parallel_run(threads, body);
  return exponent + shift;
}

}  // namespace
}  // namespace L1BN_ISA
}  // namespace int8_norm
}  // namespace l1bn
