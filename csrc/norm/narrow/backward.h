// Backward pass of narrow rows and planes: one pass for the sums of a channel, one for dx.
#pragma once
#include "norm/curve.h"
#include "norm/narrow/walk.h"
#include "norm/single.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

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
  const Single<T> single;
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
        residual(static_cast<const T*>(backward_residual(a))),
        units(static_cast<const uint16_t*>(a.x ? nullptr : a.bits)),
        mean(static_cast<const A*>(a.mean)),
        scale(static_cast<const A*>(a.scale)),
        curve(a.problem),
        single(a),
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
               [&](int64_t c) { return x ? double(mean[c]) : Base::param(args.bias, c, 0); });
    Base::fill(Base::constant(team, kRest), [&](int64_t c) { return mean[channels + c]; });
    if (curve && x) {
      Base::fill(Base::constant(team, kFactor),
                 [&](int64_t c) { return Base::param(args.weight, c, 1) / double(scale[c]); });
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
    const double elements = double(Base::elements_ / channels);
    const double* of[3] = {};
    for (int kind = 0; summed && kind < 3; ++kind)
      of[kind] = Base::template total<3>(team, 0, kind);
    for (int64_t c = team.index; c < channels; c += team.size) {
      double grad_sum = summed ? of[0][c] : 0, product = summed ? of[1][c] : 0;
      const double gamma = Base::param(args.weight, c, 1), sigma = double(scale[c]);
      if (x) product -= double(mean[channels + c]) * grad_sum;
      single.mend(c, nullptr, &grad_sum, &product);
      const double grad_weight = grad_weight_of(product, x ? sigma : gamma, sigma);
      slopes.get()[c] = slope_of<A>(gamma, sigma, elements, grad_sum, grad_weight,
                                    summed ? of[2][c] : 0, args.problem.eps, args.frozen);
      if (args.dweight) static_cast<A*>(args.dweight)[c] = A(grad_weight);
      if (args.dbias) static_cast<A*>(args.dbias)[c] = A(grad_sum);
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
