// Layout `rows` with fewer than sixteen channels: sixteen elements, a pack, hold several rows. Which
// channel a lane has repeats from step to step, a step being as many packs as it takes, or more.
#pragma once
#include "channel.h"
#include "plan.h"
#include "spans.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

// Fewer elements are left to the code for one value at a time, which has less to prepare.
inline bool is_slim(const l1bn_problem& p) {
  return p.inner == 1 && p.channels < kLanes && p.outer * p.channels >= 2048;
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
  static constexpr int kMostPacks = 16;
  static constexpr int64_t kTileSteps = 64;  // between two flushes of single precision into double
  struct Channels {
    double of[kLanes];
  };

  Slim(const l1bn_problem& p, int kinds)
      : problem_(p),
        channels_((int)p.channels),
        elements_(p.outer * p.channels),
        packs_(packs_of(channels_)),
        steps_(elements_ / (packs_ * kLanes)),
        threads_(plan_rows(p.outer, p.channels, sizeof(T), p.threads).threads),
        kinds_(kinds),
        sums_((size_t)threads_ * kinds * packs_) {}

  // f(pack, lane, channel) over a step.
  template <class F>
  void for_lanes(F&& f) const {
    for (int q = 0, c = 0; q < packs_; ++q)
      for (int j = 0; j < kLanes; ++j, c = c + 1 < channels_ ? c + 1 : 0) f(q, j, c);
  }

  // A pack for each of a step, from a value for each channel.
  template <class F>
  void fill(P* to, F&& value) const {
    A of_channel[kLanes], lanes[kMostPacks][kLanes];
    for (int c = 0; c < channels_; ++c) of_channel[c] = (A)value(c);
    for_lanes([&](int q, int j, int c) { lanes[q][j] = of_channel[c]; });
    for (int q = 0; q < packs_; ++q) to[q] = P::load(lanes[q]);
  }

  // f(how, pack of the step, element) over this member's part, and flush() every few steps.
  template <class F, class G>
  void walk(const Team& team, F&& f, G&& flush) const {
    const int64_t first = steps_ * team.index / team.size;
    const int64_t last = steps_ * (team.index + 1) / team.size;
    for (int64_t step = first; step < last;) {
      const int64_t stop = step + kTileSteps < last ? step + kTileSteps : last;
      for (; step < stop; ++step)
        for (int q = 0; q < packs_; ++q) f(Full{}, q, (step * packs_ + q) * kLanes);
      flush();
    }
    if (team.index != team.size - 1) return;
    int64_t at = steps_ * packs_ * kLanes;
    int q = 0;
    for (; at + kLanes <= elements_; at += kLanes, ++q) f(Full{}, q, at);
    if (at < elements_) f(Part{(int)(elements_ - at)}, q, at);
    flush();
  }

  // Sums of term(how, pack of the step, element, sums), which adds to `kKinds` packs.
  template <int kKinds, class F>
  void accumulate(const Team& team, int kind, F&& term) const {
    Wide* const out = sums_.get() + ((int64_t)team.index * kinds_ + kind) * packs_;
    P recent[kMostPacks][kKinds];
    for (int i = 0; i < kKinds * packs_; ++i) out[i].clear();
    for (auto& of_pack : recent)
      for (P& sum : of_pack) sum = P::all(0);
    walk(
        team,
        [&](auto how, int q, int64_t at) __attribute__((always_inline)) { term(how, q, at, recent[q]); },
        [&] {
          for (int q = 0; q < packs_; ++q)
            for (int k = 0; k < kKinds; ++k) {
              out[k * packs_ + q].add(recent[q][k]);
              recent[q][k] = P::all(0);
            }
        });
  }

  Channels total(const Team& team, int kind) const {
    double lanes[kMostPacks][kLanes];
    for (int q = 0; q < packs_; ++q) {
      Pack<double> sum = Pack<double>::all(0);
      for (int member = 0; member < team.size; ++member)
        sum += sums_.get()[((int64_t)member * kinds_ + kind) * packs_ + q].lanes;
      sum.store(lanes[q]);
    }
    Channels out = {};
    for_lanes([&](int q, int j, int c) { out.of[c] += lanes[q][j]; });
    return out;
  }

  double param(const void* vector, int64_t c, double missing) const {
    return read_param(vector, problem_.param_dtype, c, missing);
  }

  const l1bn_problem& problem_;
  const int channels_;
  const int64_t elements_;
  const int packs_;  // of a step
  const int64_t steps_;
  const int threads_;
  const int kinds_;
  Buffer<Wide> sums_;  // [member][kind][pack]

 private:
  // Until the channels repeat, and at least eight: an addition must not wait for the one before.
  static int packs_of(int channels) {
    int period = channels;
    while (period % 2 == 0) period /= 2;  // sixteen has no other divisors
    int packs = period;
    while (packs < 8) packs += period;
    return packs;
  }
};

template <class T>
class SlimForward : Slim<T> {
  using Base = Slim<T>;
  using typename Base::A;
  using typename Base::Channels;
  using typename Base::P;
  const l1bn_forward_args& args;
  const bool frozen;
  const T* const x;
  A* const mean;
  A* const scale;
  Buffer<P> maxima;  // of the residual, per member and pack

 public:
  SlimForward(const l1bn_forward_args& a, bool is_frozen)
      : Base(a.problem, 2),
        args(a),
        frozen(is_frozen),
        x(static_cast<const T*>(a.x)),
        mean(static_cast<A*>(a.mean)),
        scale(static_cast<A*>(a.scale)),
        maxima((size_t)Base::threads_ * Base::packs_) {}

  int64_t run() const {
    if (!Base::sums_.get() || !maxima.get()) return -2;
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
  void statistics(const Team& team) const {
    const int64_t channels = Base::channels_;
    const double rows = (double)Base::problem_.outer;
    P centre[Base::kMostPacks], rest[Base::kMostPacks];
    // Around the first row: large means cost no digits.
    Base::fill(centre, [&](int c) { return value_of(x + c); });
    Base::template accumulate<1>(team, 0, [&](auto how, int q, int64_t at, P* sum)
                                              __attribute__((always_inline)) {
      *sum += how.keep(how.get(x + at) - centre[q]);
    });
    team.wait();
    const Channels sums = Base::total(team, 0);
    A middle[kLanes], low[kLanes];
    for (int64_t c = 0; c < channels; ++c)
      split_mean((double)value_of(x + c) + sums.of[c] / rows, middle + c, low + c);
    Base::fill(centre, [&](int c) { return middle[c]; });
    Base::fill(rest, [&](int c) { return low[c]; });
    Base::template accumulate<1>(team, 1, [&](auto how, int q, int64_t at, P* sum)
                                              __attribute__((always_inline)) {
      *sum += how.keep(absolute(how.get(x + at) - centre[q] - rest[q]));
    });
    team.wait();
    const Channels deviations = Base::total(team, 1);
    for (int64_t c = team.index; c < channels; c += team.size) {
      mean[c] = middle[c];
      mean[channels + c] = low[c];
      scale[c] = scale_of<A>(deviations.of[c], rows, args.problem.eps);
    }
    team.wait();
  }

  void write(const Team& team) const {
    A low_value, high_value;
    activation_range(args.problem.activation, &low_value, &high_value);
    const P low = P::all(low_value), high = P::all(high_value);
    const int64_t channels = Base::channels_;
    P centre[Base::kMostPacks], rest[Base::kMostPacks], slope[Base::kMostPacks], shift[Base::kMostPacks];
    auto gamma = [&](int c) { return Base::param(args.weight, c, 1); };
    Base::fill(centre, [&](int c) { return mean[c]; });
    Base::fill(rest, [&](int c) { return mean[channels + c]; });
    Base::fill(slope, [&](int c) { return gamma(c) / (double)scale[c]; });
    Base::fill(shift, [&](int c) {
      return shift_of(args, c, gamma(c), mean[channels + c], scale[c]);
    });
    P* const most = maxima.get() + (int64_t)team.index * Base::packs_;
    for (int q = 0; q < Base::packs_; ++q) most[q] = P::all(0);
    const T* const from = x;
    const T* const residual = static_cast<const T*>(args.residual);
    T* const to = static_cast<T*>(args.y);
    uint16_t* const units = static_cast<uint16_t*>(args.bits);
    Base::walk(
        team,
        [&](auto how, int q, int64_t at) __attribute__((always_inline)) {
          const P d = how.get(from + at) - centre[q];
          P z = d * slope[q] + shift[q];
          if (residual) {
            const P added = how.get(residual + at);
            z += added;
            most[q] = maximum(most[q], how.keep(absolute(added)));
          }
          how.put(to + at, clamp(z, low, high));
          if (units) units[at / kLanes] = (uint16_t)at_least_bits(d, rest[q]);
        },
        [] {});
  }

  int64_t unrecoverable(const Team& team) const {
    A top[kLanes] = {}, lanes[Base::kMostPacks][kLanes];
    for (int q = 0; q < Base::packs_; ++q) {
      P most = P::all(0);
      for (int member = 0; member < team.size; ++member)
        most = maximum(most, maxima.get()[member * Base::packs_ + q]);
      most.store(lanes[q]);
    }
    Base::for_lanes([&](int q, int j, int c) { top[c] = lanes[q][j] > top[c] ? lanes[q][j] : top[c]; });
    int64_t bad = 0;
    for (int c = 0; c < Base::channels_; ++c) {
      const bool floored = !frozen && scale[c] <= scale_floor<A>(args.problem.eps);
      bad += floored || !recoverable<T>(Base::param(args.weight, c, 1), Base::param(args.bias, c, 0),
                                        (double)top[c], args.recoverable);
    }
    return bad;
  }
};

template <class T>
class SlimBackward : Slim<T> {
  using Base = Slim<T>;
  using typename Base::A;
  using typename Base::Channels;
  using typename Base::P;
  const l1bn_backward_args& args;
  const T* const grad;
  const T* const y;
  const T* const x;
  const T* const residual;
  const uint16_t* const units;
  const A* const mean;
  const A* const scale;
  const bool active;
  A low, high;

 public:
  explicit SlimBackward(const l1bn_backward_args& a)
      : Base(a.problem, 3),
        args(a),
        grad(static_cast<const T*>(a.grad)),
        y(static_cast<const T*>(a.y)),
        x(static_cast<const T*>(a.x)),
        residual(static_cast<const T*>(a.x || a.problem.activation == L1BN_NONE ? nullptr : a.residual)),
        units(static_cast<const uint16_t*>(a.x ? nullptr : a.bits)),
        mean(static_cast<const A*>(a.mean)),
        scale(static_cast<const A*>(a.scale)),
        active(a.problem.activation != L1BN_NONE) {
    activation_range(a.problem.activation, &low, &high);
  }

  int64_t run() const {
    if (!Base::sums_.get()) return -2;
    auto body = [&](Team team) { member(team); };
    parallel_run(Base::threads_, body);
    return 0;
  }

 private:
  void member(const Team& team) const {
    // What is subtracted before the product with g: µ from x, β from y.
    P centre[Base::kMostPacks], rest[Base::kMostPacks];
    Base::fill(centre, [&](int c) { return x ? (double)mean[c] : Base::param(args.bias, c, 0); });
    Base::fill(rest, [&](int c) { return mean[Base::channels_ + c]; });
    const bool summed = !args.frozen || args.dweight || args.dbias;
    if (summed) accumulate_products(team, centre, rest);
    team.wait();
    Slope<A> slopes[kLanes];
    finish(team, summed, slopes);
    if (args.dx || args.dresidual) write(team, centre, rest, slopes);
  }

  template <class How>
  L1BN_INLINE P masked(How how, int64_t at, const P& least, const P& most) const {
    const P g = how.get(grad + at);
    return active ? between(how.get(y + at), least, most, g) : g;
  }

  template <class How>
  L1BN_INLINE unsigned positive(How how, int64_t at, const P& centre, const P& rest) const {
    if (x) return at_least_bits(how.get(x + at) - centre, rest);
    return units ? units[at / kLanes] : 0;
  }

  void accumulate_products(const Team& team, const P* centre, const P* rest) const {
    const P least = P::all(low), most = P::all(high), one = P::all(1), zero = P::all(0);
    Base::template accumulate<3>(team, 0, [&](auto how, int q, int64_t at, P* sum)
                                              __attribute__((always_inline)) {
      const P g = how.keep(masked(how, at, least, most));
      P factor = zero;
      if (x)
        factor = how.get(x + at) - centre[q];
      else if (y)
        factor = how.get(y + at) - centre[q];
      if (residual) factor = factor - how.get(residual + at);
      sum[0] += g;
      sum[1] += how.keep(g * factor);
      sum[2] += how.keep(choose(positive(how, at, centre[q], rest[q]), one, zero));
    });
  }

  void finish(const Team& team, bool summed, Slope<A>* slopes) const {
    Channels grads = {}, products = {}, above = {};
    if (summed) {
      grads = Base::total(team, 0);
      products = Base::total(team, 1);
      above = Base::total(team, 2);
    }
    for (int c = 0; c < Base::channels_; ++c) {
      const double gamma = Base::param(args.weight, c, 1), sigma = (double)scale[c];
      const double left = x ? (double)mean[Base::channels_ + c] * grads.of[c] : 0.0;
      const double grad_weight = (products.of[c] - left) / (x ? sigma : gamma);
      slopes[c] = slope_of<A>(gamma, sigma, (double)Base::problem_.outer, grads.of[c], grad_weight,
                              above.of[c], args.problem.eps, args.frozen);
      if (team.index != 0) continue;
      if (args.dweight) static_cast<A*>(args.dweight)[c] = (A)grad_weight;
      if (args.dbias) static_cast<A*>(args.dbias)[c] = (A)grads.of[c];
    }
  }

  void write(const Team& team, const P* centre, const P* rest, const Slope<A>* slopes) const {
    P slope[Base::kMostPacks], above[Base::kMostPacks], below[Base::kMostPacks];
    Base::fill(slope, [&](int c) { return slopes[c].slope; });
    Base::fill(above, [&](int c) { return slopes[c].above; });
    Base::fill(below, [&](int c) { return slopes[c].below; });
    const P least = P::all(low), most = P::all(high);
    T* const dx = static_cast<T*>(args.dx);
    T* const dresidual = static_cast<T*>(args.dresidual);
    Base::walk(
        team,
        [&](auto how, int q, int64_t at) __attribute__((always_inline)) {
          const P g = masked(how, at, least, most);
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
