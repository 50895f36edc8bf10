// Rows of fewer than sixteen channels and planes of fewer than sixteen elements: sixteen elements,
// a pack, hold several rows or planes. Which channel a lane has repeats from step to step, a step
// being as many packs as it takes, or more.
#pragma once
#include "common/plan.h"
#include "norm/channel.h"
#include "norm/curve.h"
#include "norm/planes/walk.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

// Fewer elements are left to the code for one value at a time, which has less to prepare.
inline bool is_slim(const l1bn_problem& p) {
  const bool slim = p.inner == 1 ? p.channels < kLanes : p.inner < kLanes;
  return slim && p.outer * p.channels * p.inner >= 2048 && p.outer >= kLanes;
}

// The first lanes of a pack, where memory ends.
struct Part {
  int count;
  template <class T>
  L1BN_INLINE Pack<Acc<T>> get(const T* p) const {
    T padded[kLanes] = {};
    memcpy(padded, p, count * sizeof(T));
    return load(padded);
  }
  template <class T>
  L1BN_INLINE void put(T* p, const Pack<Acc<T>>& a) const {
    T padded[kLanes];
    store(padded, a);
    memcpy(p, padded, count * sizeof(T));
  }
  template <class A>
  L1BN_INLINE Pack<A> keep(const Pack<A>& a) const {
    return choose((1u << count) - 1, a, Pack<A>::all(0));
  }
};

template <class T>
class Slim {
 protected:
  using A = Acc<T>;
  using P = Pack<A>;
  static constexpr int64_t kTileSteps = 64;  // between two flushes of single precision into double
  static constexpr int kConstants = 7;

  Slim(const l1bn_problem& p, int kinds)
      : problem_(p),
        channels_(p.channels),
        inner_(p.inner),
        elements_(p.outer * p.channels * p.inner),
        packs_(packs_of(p.channels * p.inner)),
        steps_(elements_ / (packs_ * kLanes)),
        threads_(plan_rows(p.outer, p.channels * p.inner, sizeof(T), p.threads).threads),
        kinds_(kinds),
        sums_((size_t)threads_ * kinds * packs_),
        recent_((size_t)threads_ * kinds * packs_),
        constants_((size_t)threads_ * kConstants * packs_),
        totals_((size_t)threads_ * kinds * channels_) {}

  bool allocated() const {
    return sums_.get() && recent_.get() && constants_.get() && totals_.get();
  }

  // Of this member: a pack for each of a step.
  P* constant(const Team& team, int which) const {
    return constants_.get() + ((int64_t)team.index * kConstants + which) * packs_;
  }

  // f(lane of the step, channel) over a step.
  template <class F>
  void for_lanes(F&& f) const {
    int64_t lane = 0;
    while (lane < packs_ * kLanes)
      for (int64_t c = 0; c < channels_; ++c)
        for (int64_t i = 0; i < inner_; ++i) f(lane++, c);
  }

  // A pack for each of a step, from a value for each channel.
  template <class F>
  void fill(P* to, F&& value) const {
    A* const lanes = reinterpret_cast<A*>(to);
    int64_t lane = 0;
    while (lane < packs_ * kLanes)
      for (int64_t c = 0; c < channels_; ++c) {
        const A of_channel = (A)value(c);
        for (int64_t i = 0; i < inner_; ++i) lanes[lane++] = of_channel;
      }
  }

  // f(how, pack of the step, element) over this member's part, and flush() every few steps.
  template <class F, class G>
  void walk(const Team& team, F&& f, G&& flush) const {
    const int64_t first = steps_ * team.index / team.size;
    const int64_t last = steps_ * (team.index + 1) / team.size;
    for (int64_t step = first; step < last;) {
      const int64_t stop = step + kTileSteps < last ? step + kTileSteps : last;
      for (; step < stop; ++step)
        for (int64_t q = 0; q < packs_; ++q) f(Full{}, q, (step * packs_ + q) * kLanes);
      flush();
    }
    if (team.index != team.size - 1) return;
    int64_t at = steps_ * packs_ * kLanes;
    int64_t q = 0;
    for (; at + kLanes <= elements_; at += kLanes, ++q) f(Full{}, q, at);
    if (at < elements_) f(Part{(int)(elements_ - at)}, q, at);
    flush();
  }

  // Sums of term(how, pack of the step, element, sums), which adds to `kKinds` packs.
  template <int kKinds, class F>
  void accumulate(const Team& team, int kind, F&& term) const {
    const int64_t place = ((int64_t)team.index * kinds_ + kind) * packs_;
    Wide* const out = sums_.get() + place;
    P* const recent = recent_.get() + place;
    for (int64_t i = 0; i < kKinds * packs_; ++i) {
      out[i].clear();
      recent[i] = P::all(0);
    }
    walk(
        team,
        [&](auto how, int64_t q, int64_t at)
            L1BN_INLINED { term(how, q, at, recent + kKinds * q); },
        [&] {
          for (int64_t i = 0; i < kKinds * packs_; ++i) {
            out[i].add(recent[i]);
            recent[i] = P::all(0);
          }
        });
  }

  // Of each channel over all members, of one of the kinds that were summed together.
  template <int kKinds>
  const double* total(const Team& team, int kind, int which) const {
    double* const out = totals_.get() + ((int64_t)team.index * kinds_ + kind + which) * channels_;
    for (int64_t c = 0; c < channels_; ++c) out[c] = 0;
    double lanes[kLanes];
    for_lanes([&](int64_t lane, int64_t c) {
      if (lane % kLanes == 0) {
        Pack<double> sum = Pack<double>::all(0);
        for (int member = 0; member < team.size; ++member)
          sum += sums_
                     .get()[((int64_t)member * kinds_ + kind) * packs_ + lane / kLanes * kKinds +
                            which]
                     .lanes;
        sum.store(lanes);
      }
      out[c] += lanes[lane % kLanes];
    });
    return out;
  }

  double param(const void* vector, int64_t c, double missing) const {
    return read_param(vector, problem_.param_dtype, c, missing);
  }

  const l1bn_problem& problem_;
  const int64_t channels_, inner_, elements_;
  const int64_t packs_;  // of a step
  const int64_t steps_;
  const int threads_;
  const int kinds_;
  Buffer<Wide> sums_;      // [member][pack][kind], of those summed together
  Buffer<P> recent_;       // the same, not yet flushed
  Buffer<P> constants_;    // [member][which][pack]
  Buffer<double> totals_;  // [member][kind][channel]

 private:
  // Until the channels repeat, and at least eight: an addition must not wait for the one before.
  static int64_t packs_of(int64_t row) {
    int64_t period = row;
    for (int i = 0; i < 4 && period % 2 == 0; ++i) period /= 2;  // a sixteenth, where that is whole
    int64_t packs = period;
    while (packs < 8) packs += period;
    return packs;
  }
};

template <class T>
class SlimForward : Slim<T> {
  using Base = Slim<T>;
  using typename Base::A;
  using typename Base::P;
  enum { kCentre, kRest, kSlope, kShift, kMost };  // constants; the last is the residual's maximum
  const l1bn_forward_args& args;
  const bool frozen;
  const T* const x;
  A* const mean;
  A* const scale;

 public:
  SlimForward(const l1bn_forward_args& a, bool is_frozen)
      : Base(a.problem, 2),
        args(a),
        frozen(is_frozen),
        x(static_cast<const T*>(a.x)),
        mean(static_cast<A*>(a.mean)),
        scale(static_cast<A*>(a.scale)) {}

  int64_t run() const {
    if (!Base::allocated()) return L1BN_NO_MEMORY;
    int64_t bad = 0;
    auto body = [&](Team team) {
      if (!frozen) statistics(team);
      write(team);
      team.wait();
      if (team.index == 0) bad = unrecoverable(team);
    };
    parallel_run(Base::threads_, body);
    return bad;
  }

 private:
  // The first value of a channel: large means cost no digits around it.
  double first(int64_t c) const { return (double)value_of(x + c * Base::inner_); }

  void statistics(const Team& team) const {
    const int64_t channels = Base::channels_;
    const double elements = (double)(Base::elements_ / channels);
    P* const centre = Base::constant(team, kCentre);
    P* const rest = Base::constant(team, kRest);
    Base::fill(centre, [&](int64_t c) { return first(c); });
    Base::template accumulate<1>(team, 0,
                                 [&](auto how, int64_t q, int64_t at, P* sum) L1BN_INLINED {
                                   *sum += how.keep(how.get(x + at) - centre[q]);
                                 });
    team.wait();
    const double* sums = Base::template total<1>(team, 0, 0);
    auto split = [&](int64_t c, bool second) {
      A high, low;
      split_mean(first(c) + sums[c] / elements, &high, &low);
      return second ? low : high;
    };
    Base::fill(centre, [&](int64_t c) { return split(c, false); });
    Base::fill(rest, [&](int64_t c) { return split(c, true); });
    Base::template accumulate<1>(
        team, 1, [&](auto how, int64_t q, int64_t at, P* sum) L1BN_INLINED {
          *sum += how.keep(absolute(how.get(x + at) - centre[q] - rest[q]));
        });
    team.wait();
    const double* deviations = Base::template total<1>(team, 1, 0);
    for (int64_t c = team.index; c < channels; c += team.size) {
      mean[c] = split(c, false);
      mean[channels + c] = split(c, true);
      scale[c] = scale_of<A>(deviations[c], elements, args.problem.eps);
    }
    team.wait();
  }

  void write(const Team& team) const {
    A low_value, high_value;
    activation_range(args.problem.activation, &low_value, &high_value);
    const P low = P::all(low_value), high = P::all(high_value);
    const Curve<T> curve(args.problem);
    const int64_t channels = Base::channels_;
    P* const centre = Base::constant(team, kCentre);
    P* const rest = Base::constant(team, kRest);
    P* const slope = Base::constant(team, kSlope);
    P* const shift = Base::constant(team, kShift);
    P* const most = Base::constant(team, kMost);
    auto gamma = [&](int64_t c) { return Base::param(args.weight, c, 1); };
    Base::fill(centre, [&](int64_t c) { return mean[c]; });
    Base::fill(rest, [&](int64_t c) { return mean[channels + c]; });
    Base::fill(slope, [&](int64_t c) { return gamma(c) / (double)scale[c]; });
    Base::fill(shift, [&](int64_t c) {
      return shift_of(args, c, gamma(c), mean[channels + c], scale[c]);
    });
    Base::fill(most, [](int64_t) { return 0; });
    const T* const from = x;
    const T* const residual = static_cast<const T*>(args.residual);
    T* const to = static_cast<T*>(args.y);
    uint16_t* const units = static_cast<uint16_t*>(args.bits);
    Base::walk(
        team,
        [&](auto how, int64_t q, int64_t at) L1BN_INLINED {
          const P d = how.get(from + at) - centre[q];
          P z = d * slope[q] + shift[q];
          if (residual) {
            const P added = how.get(residual + at);
            z += added;
            most[q] = maximum(most[q], how.keep(absolute(added)));
          }
          if (curve) z = curve.value(z);
          how.put(to + at, clamp(z, low, high));
          if (units) units[at / kLanes] = (uint16_t)at_least_bits(d, rest[q]);
        },
        [] {});
  }

  int64_t unrecoverable(const Team& team) const {
    double* const top = Base::totals_.get();  // done with
    for (int64_t c = 0; c < Base::channels_; ++c) top[c] = 0;
    for (int member = 0; member < team.size; ++member) {
      const A* const most = reinterpret_cast<const A*>(Base::constant({member, team.size}, kMost));
      Base::for_lanes([&](int64_t lane, int64_t c) {
        top[c] = (double)most[lane] > top[c] ? (double)most[lane] : top[c];
      });
    }
    int64_t bad = 0;
    for (int64_t c = 0; c < Base::channels_; ++c) {
      const bool floored = !frozen && scale[c] <= scale_floor<A>(args.problem.eps);
      bad +=
          floored || !recoverable<T>(Base::param(args.weight, c, 1), Base::param(args.bias, c, 0),
                                     top[c], args.recoverable, args.problem);
    }
    return bad;
  }
};

template <class T>
class SlimBackward : Slim<T> {
  using Base = Slim<T>;
  using typename Base::A;
  using typename Base::P;
  // z = (x - centre) * factor + shift, where x is there.
  enum { kCentre, kRest, kSlope, kAbove, kBelow, kFactor, kShift };
  const l1bn_backward_args& args;
  const T* const grad;
  const T* const y;
  const T* const x;
  const T* const residual;
  const uint16_t* const units;
  const A* const mean;
  const A* const scale;
  const Curve<T> curve;
  const bool active;  // the activation clips
  Buffer<Slope<A>> slopes;
  A low, high;

 public:
  explicit SlimBackward(const l1bn_backward_args& a)
      : Base(a.problem, 3),
        args(a),
        grad(static_cast<const T*>(a.grad)),
        y(static_cast<const T*>(a.y)),
        x(static_cast<const T*>(a.x)),
        residual(static_cast<const T*>(a.problem.activation == L1BN_NONE ||
                                               (a.x && !bends(a.problem.activation))
                                           ? nullptr
                                           : a.residual)),
        units(static_cast<const uint16_t*>(a.x ? nullptr : a.bits)),
        mean(static_cast<const A*>(a.mean)),
        scale(static_cast<const A*>(a.scale)),
        curve(a.problem),
        active(clips(a.problem.activation)),
        slopes(Base::channels_) {
    gradient_range(a.problem.activation, &low, &high);
  }

  int64_t run() const {
    if (!Base::allocated() || !slopes.get()) return L1BN_NO_MEMORY;
    auto body = [&](Team team) { member(team); };
    parallel_run(Base::threads_, body);
    return 0;
  }

 private:
  void member(const Team& team) const {
    const int64_t channels = Base::channels_;
    // What is subtracted before the product with g: µ from x, β from y.
    Base::fill(Base::constant(team, kCentre),
               [&](int64_t c) { return x ? (double)mean[c] : Base::param(args.bias, c, 0); });
    Base::fill(Base::constant(team, kRest), [&](int64_t c) { return mean[channels + c]; });
    if (curve && x) {
      Base::fill(Base::constant(team, kFactor),
                 [&](int64_t c) { return Base::param(args.weight, c, 1) / (double)scale[c]; });
      Base::fill(Base::constant(team, kShift), [&](int64_t c) {
        return shift_of(args, c, Base::param(args.weight, c, 1), mean[channels + c], scale[c]);
      });
    }
    const bool summed = !args.frozen || args.dweight || args.dbias;
    if (summed) accumulate_products(team);
    team.wait();
    finish(team, summed);
    team.wait();
    if (args.dx || args.dresidual) write(team);
  }

  // The gradient of z. Where z is read off the output it is left in `z`.
  template <class How>
  L1BN_INLINE P masked(const Team& team, How how, int64_t q, int64_t at, const P& least,
                       const P& most, P* z) const {
    const P g = how.get(grad + at);
    if (curve) return g * bent(team, how, q, at, z);
    return active ? between(how.get(y + at), least, most, g) : g;
  }

  template <class How>
  P bent(const Team& team, How how, int64_t q, int64_t at, P* z) const {
    P slope;
    if (!x) {
      *z = curve.inverse(how.get(y + at), &slope);
      return slope;
    }
    P from =
        (how.get(x + at) - Base::constant(team, kCentre)[q]) * Base::constant(team, kFactor)[q] +
        Base::constant(team, kShift)[q];
    if (residual) from += how.get(residual + at);
    return curve.slope(from);
  }

  template <class How>
  L1BN_INLINE unsigned positive(How how, int64_t at, const P& centre, const P& rest) const {
    if (x) return at_least_bits(how.get(x + at) - centre, rest);
    return units ? units[at / kLanes] : 0;
  }

  void accumulate_products(const Team& team) const {
    const P* const centre = Base::constant(team, kCentre);
    const P* const rest = Base::constant(team, kRest);
    const P least = P::all(low), most = P::all(high), one = P::all(1), zero = P::all(0);
    Base::template accumulate<3>(
        team, 0, [&](auto how, int64_t q, int64_t at, P* sum) L1BN_INLINED {
          P z = zero;
          const P g = how.keep(masked(team, how, q, at, least, most, &z));
          P factor = zero;
          if (x)
            factor = how.get(x + at) - centre[q];
          else if (curve)
            factor = z - centre[q];
          else if (y)
            factor = how.get(y + at) - centre[q];
          if (residual && !x) factor = factor - how.get(residual + at);
          sum[0] += g;
          sum[1] += how.keep(g * factor);
          sum[2] += how.keep(choose(positive(how, at, centre[q], rest[q]), one, zero));
        });
  }

  void finish(const Team& team, bool summed) const {
    const int64_t channels = Base::channels_;
    const double elements = (double)(Base::elements_ / channels);
    const double* of[3] = {};
    for (int kind = 0; summed && kind < 3; ++kind)
      of[kind] = Base::template total<3>(team, 0, kind);
    for (int64_t c = team.index; c < channels; c += team.size) {
      const double grad_sum = summed ? of[0][c] : 0, product = summed ? of[1][c] : 0;
      const double gamma = Base::param(args.weight, c, 1), sigma = (double)scale[c];
      const double left = x ? (double)mean[channels + c] * grad_sum : 0.0;
      const double grad_weight = grad_weight_of(product - left, x ? sigma : gamma, sigma);
      slopes.get()[c] = slope_of<A>(gamma, sigma, elements, grad_sum, grad_weight,
                                    summed ? of[2][c] : 0, args.problem.eps, args.frozen);
      if (args.dweight) static_cast<A*>(args.dweight)[c] = (A)grad_weight;
      if (args.dbias) static_cast<A*>(args.dbias)[c] = (A)grad_sum;
    }
  }

  void write(const Team& team) const {
    const P* const centre = Base::constant(team, kCentre);
    const P* const rest = Base::constant(team, kRest);
    P* const slope = Base::constant(team, kSlope);
    P* const above = Base::constant(team, kAbove);
    P* const below = Base::constant(team, kBelow);
    Base::fill(slope, [&](int64_t c) { return slopes.get()[c].slope; });
    Base::fill(above, [&](int64_t c) { return slopes.get()[c].above; });
    Base::fill(below, [&](int64_t c) { return slopes.get()[c].below; });
    const P least = P::all(low), most = P::all(high);
    T* const dx = static_cast<T*>(args.dx);
    T* const dresidual = static_cast<T*>(args.dresidual);
    Base::walk(
        team,
        [&](auto how, int64_t q, int64_t at) L1BN_INLINED {
          P z;
          const P g = masked(team, how, q, at, least, most, &z);
          if (dresidual) how.put(dresidual + at, g);
          if (!dx) return;
          const unsigned bits = positive(how, at, centre[q], rest[q]);
          how.put(dx + at, g * slope[q] + choose(bits, above[q], below[q]));
        },
        [] {});
  }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
