// The gradient of one element, and of a channel's parameters from one element after the other: for
// what is too small for packs, and where the sums of packs are not finite.
#pragma once
#include "norm/channel.h"
#include "norm/curve.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

template <class T>
class Single {
  using A = Acc<T>;
  const l1bn_backward_args& args;
  const T* const grad;
  const T* const y;
  const T* const x;
  const T* const residual;
  const A* const mean;
  const A* const scale;
  const Curve<T> curve;
  A low, high;

  double param(const void* vector, int64_t c, double missing) const {
    return read_param(vector, args.problem.param_dtype, c, missing);
  }
  A residual_at(int64_t i) const { return residual ? value_of(residual + i) : A(0); }

  // act'(z) of an activation that bends; where z is read off the output it is left in `z`.
  A bent(int64_t c, int64_t i, A* z) const {
    if (!x) {
      A slope;
      *z = curve.inverse(value_of(y + i), &slope);
      return slope;
    }
    const double gamma = param(args.weight, c, 1);
    const A before = (value_of(x + i) - mean[c]) * A(gamma / double(scale[c])) +
                     shift_of(args, c, gamma, mean[args.problem.channels + c], scale[c]);
    return curve.slope(before + residual_at(i));
  }

 public:
  explicit Single(const l1bn_backward_args& a)
      : args(a),
        grad(static_cast<const T*>(a.grad)),
        y(static_cast<const T*>(a.y)),
        x(static_cast<const T*>(a.x)),
        residual(static_cast<const T*>(backward_residual(a))),
        mean(static_cast<const A*>(a.mean)),
        scale(static_cast<const A*>(a.scale)),
        curve(a.problem) {
    gradient_range(a.problem.activation, &low, &high);
  }

  // The gradient of z. Where z is read off the output it is left in `z`.
  A masked(int64_t c, int64_t i, A* z) const {
    const A g = value_of(grad + i);
    if (curve) return g * bent(c, i, z);
    if (args.problem.activation == L1BN_NONE) return g;
    const A value = value_of(y + i);
    return value > low && !(value >= high) ? g : A(0);
  }

  bool positive(int64_t c, int64_t i) const {
    return value_of(x + i) - mean[c] >= mean[args.problem.channels + c];
  }

  // x - mean, or gamma * x_hat where x is not there.
  A factor(int64_t c, int64_t i, A z) const {
    if (x) return value_of(x + i) - mean[c] - mean[args.problem.channels + c];
    if (!y) return 0;
    const A q = (curve ? z : value_of(y + i)) - A(param(args.bias, c, 0));
    return q - residual_at(i);
  }

  // Of a channel whose sums by packs are not finite, the same sums in double and without the
  // elements that have no gradient: zero times an infinite x is no number. So the instruction sets
  // agree on what is infinite and what is no number. Called before the input's gradient is written,
  // which may lie over the output's; `held` has that of z by then, or is null.
  void mend(int64_t c, const T* held, double* grad_sum, double* product) const {
    if (is_finite(*grad_sum) && is_finite(*product)) return;
    if (scale[c] != scale[c]) return;
    const l1bn_problem& p = args.problem;
    double sum = 0, with = 0;
    for (int64_t n = 0; n < p.outer; ++n)
      for (int64_t i = (n * p.channels + c) * p.inner, last = i + p.inner; i < last; ++i) {
        A z = 0;
        const A g = held ? value_of(held + i) : masked(c, i, &z);
        if (held && !x) bent(c, i, &z);
        if (g == 0) continue;
        sum += double(g);
        with += double(g) * double(factor(c, i, z));
      }
    *grad_sum = sum;
    *product = with;
  }

 private:
  static bool is_finite(double v) { return v - v == 0; }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
