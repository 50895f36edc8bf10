// Forward pass of narrow rows and planes: two passes for the statistics, one for y.
#pragma once
#include "norm/curve.h"
#include "norm/narrow/walk.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

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
  double first(int64_t c) const { return double(value_of(x + c * Base::inner_)); }

  void statistics(const Team& team) const {
    const int64_t channels = Base::channels_;
    const double elements = double(Base::elements_ / channels);
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
    Base::fill(slope, [&](int64_t c) { return gamma(c) / double(scale[c]); });
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
          if (units) units[at / kLanes] = uint16_t(at_least_bits(d, rest[q]));
        },
        [] {});
  }

  int64_t unrecoverable(const Team& team) const {
    double* const top = Base::totals_.get();  // done with
    for (int64_t c = 0; c < Base::channels_; ++c) top[c] = 0;
    for (int member = 0; member < team.size; ++member) {
      const A* const most = reinterpret_cast<const A*>(Base::constant({member, team.size}, kMost));
      Base::for_lanes([&](int64_t lane, int64_t c) {
        top[c] = double(most[lane]) > top[c] ? double(most[lane]) : top[c];
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

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
