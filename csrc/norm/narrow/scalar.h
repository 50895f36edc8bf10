// What is too little for a pack to hold several: few rows of fewer than sixteen channels in `rows`,
// or of fewer than sixteen elements in a plane. One value at a time, in the order of memory; sums
// in double.
#pragma once
#include "common/plan.h"
#include "norm/channel.h"
#include "norm/curve.h"
#include "norm/single.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

inline bool is_small(const l1bn_problem& p) {
  return p.inner == 1 ? p.channels < kLanes : p.inner < kLanes;
}

inline void put_value(float* p, float value) { *p = value; }
inline void put_value(double* p, double value) { *p = value; }
inline void put_value(Half* p, float value) { store_one(p, value); }
inline void put_value(BFloat16* p, float value) { store_one(p, value); }

template <class T>
class Small {
 protected:
  using A = Acc<T>;

  Small(const l1bn_problem& p, int kinds)
      : problem_(p),
        threads_(plan_rows(p.outer * p.inner, p.channels, sizeof(T), p.threads).threads),
        kinds_(kinds),
        sums_(size_t(threads_) * kinds * p.channels) {}

  double* sums(int member, int kind) const {
    return sums_.get() + (int64_t(member) * kinds_ + kind) * problem_.channels;
  }

  double total(const Team& team, int kind, int64_t c) const {
    double sum = 0;
    for (int member = 0; member < team.size; ++member) sum += sums(member, kind)[c];
    return sum;
  }

  // f(channel, element) for this member's part. Parts are multiples of sixteen planes: no two
  // members write bits of one unit.
  template <class F>
  void walk(const Team& team, F&& f) const {
    const int64_t blocks = (problem_.outer + 15) / 16;
    const int64_t first = blocks * team.index / team.size * 16;
    int64_t last = blocks * (team.index + 1) / team.size * 16;
    last = last < problem_.outer ? last : problem_.outer;
    int64_t i = first * problem_.channels * problem_.inner;
    for (int64_t n = first; n < last; ++n)
      for (int64_t c = 0; c < problem_.channels; ++c)
        for (int64_t s = 0; s < problem_.inner; ++s, ++i) f(c, i);
  }

  double param(const void* vector, int64_t c, double missing) const {
    return read_param(vector, problem_.param_dtype, c, missing);
  }
  double elements() const { return double(problem_.outer) * double(problem_.inner); }

  const l1bn_problem& problem_;
  const int threads_;
  const int kinds_;
  Buffer<double> sums_;  // [member][kind][channel]
};

template <class T>
class SmallForward : Small<T> {
  using Base = Small<T>;
  using A = Acc<T>;
  const l1bn_forward_args& args;
  const bool frozen;
  const T* const x;
  A* const mean;
  A* const scale;

 public:
  SmallForward(const l1bn_forward_args& a, bool is_frozen)
      : Base(a.problem, 3),
        args(a),
        frozen(is_frozen),
        x(static_cast<const T*>(a.x)),
        mean(static_cast<A*>(a.mean)),
        scale(static_cast<A*>(a.scale)) {}

  int64_t run() const {
    if (!Base::sums_.get()) return L1BN_NO_MEMORY;
    int64_t bad = 0;
    auto body = [&](Team team) {
      memset(Base::sums(team.index, 0), 0, sizeof(double) * 3 * args.problem.channels);
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
    const int64_t channels = args.problem.channels;
    const double elements = Base::elements();
    double* sum = Base::sums(team.index, 0);
    const int64_t inner = args.problem.inner;
    Base::walk(team, [&](int64_t c, int64_t i) {
      sum[c] += double(value_of(x + i) - value_of(x + c * inner));
    });
    team.wait();
    for (int64_t c = team.index; c < channels; c += team.size)
      split_mean(double(value_of(x + c * inner)) + Base::total(team, 0, c) / elements, &mean[c],
                 &mean[channels + c]);
    team.wait();
    double* deviation = Base::sums(team.index, 1);
    Base::walk(team, [&](int64_t c, int64_t i) {
      deviation[c] += fabs(double(value_of(x + i) - mean[c] - mean[channels + c]));
    });
    team.wait();
    for (int64_t c = team.index; c < channels; c += team.size) {
      scale[c] = scale_of<A>(Base::total(team, 1, c), elements, args.problem.eps);
    }
    team.wait();
  }

  void write(const Team& team) const {
    const Curve<T> curve(args.problem);
    A low, high;
    activation_range(args.problem.activation, &low, &high);
    const T* residual = static_cast<const T*>(args.residual);
    T* y = static_cast<T*>(args.y);
    uint16_t* bits = static_cast<uint16_t*>(args.bits);
    double* most = Base::sums(team.index, 2);
    Base::walk(team, [&](int64_t c, int64_t i) {
      const A d = value_of(x + i) - mean[c], rest = mean[args.problem.channels + c];
      const double gamma = Base::param(args.weight, c, 1);
      A z = d * A(gamma / double(scale[c])) + shift_of(args, c, gamma, rest, scale[c]);
      if (residual) {
        const A added = value_of(residual + i);
        z += added;
        if (fabs(double(added)) > most[c]) most[c] = fabs(double(added));
      }
      if (curve) z = curve.value(z);
      z = z < low ? low : z;
      put_value(y + i, z > high ? high : z);
      if (!bits) return;
      if (i % 16 == 0) bits[i / 16] = 0;
      bits[i / 16] |= uint16_t(unsigned(d >= rest) << (i % 16));
    });
  }

  int64_t unrecoverable(const Team& team) const {
    int64_t bad = 0;
    for (int64_t c = 0; c < args.problem.channels; ++c) {
      double top = 0;
      for (int member = 0; member < team.size; ++member) {
        const double mine = Base::sums(member, 2)[c];
        top = mine > top ? mine : top;
      }
      bad += !recoverable<T>(Base::param(args.weight, c, 1), Base::param(args.bias, c, 0), top,
                             args.recoverable, args.problem) ||
             (!frozen && scale[c] <= scale_floor<A>(args.problem.eps));
    }
    return bad;
  }
};

template <class T>
class SmallBackward : Small<T> {
  using Base = Small<T>;
  using A = Acc<T>;
  const l1bn_backward_args& args;
  const Single<T> single;
  Buffer<Slope<A>> slopes;  // per channel

 public:
  explicit SmallBackward(const l1bn_backward_args& a)
      : Base(a.problem, 3), args(a), single(a), slopes(a.problem.channels) {}

  int64_t run() const {
    if (!Base::sums_.get() || !slopes.get()) return L1BN_NO_MEMORY;
    auto body = [&](Team team) {
      memset(Base::sums(team.index, 0), 0, sizeof(double) * 3 * args.problem.channels);
      accumulate(team);
      team.wait();
      parameters(team);
      team.wait();
      if (args.dx || args.dresidual) write(team);
    };
    parallel_run(Base::threads_, body);
    return 0;
  }

 private:
  bool positive(int64_t c, int64_t i) const {
    if (args.x) return single.positive(c, i);
    const uint16_t* bits = static_cast<const uint16_t*>(args.bits);
    return bits && (bits[i / 16] >> (i % 16) & 1);
  }

  void accumulate(const Team& team) const {
    double* grad = Base::sums(team.index, 0);
    double* product = Base::sums(team.index, 1);
    double* above = Base::sums(team.index, 2);
    Base::walk(team, [&](int64_t c, int64_t i) {
      A z = 0;
      const A g = single.masked(c, i, &z);
      grad[c] += double(g);
      product[c] += double(g * single.factor(c, i, z));
      above[c] += positive(c, i);
    });
  }

  void parameters(const Team& team) const {
    for (int64_t c = team.index; c < args.problem.channels; c += team.size) {
      double grad_sum = Base::total(team, 0, c), product = Base::total(team, 1, c);
      single.mend(c, nullptr, &grad_sum, &product);
      const double gamma = Base::param(args.weight, c, 1);
      const double sigma = double(static_cast<const A*>(args.scale)[c]);
      const double grad_weight = grad_weight_of(product, args.x ? sigma : gamma, sigma);
      slopes.get()[c] = slope_of<A>(gamma, sigma, Base::elements(), grad_sum, grad_weight,
                                    Base::total(team, 2, c), args.problem.eps, args.frozen);
      if (args.dweight) static_cast<A*>(args.dweight)[c] = A(grad_weight);
      if (args.dbias) static_cast<A*>(args.dbias)[c] = A(grad_sum);
    }
  }

  void write(const Team& team) const {
    T* dx = static_cast<T*>(args.dx);
    T* dresidual = static_cast<T*>(args.dresidual);
    Base::walk(team, [&](int64_t c, int64_t i) {
      A z = 0;
      const A g = single.masked(c, i, &z);
      if (dresidual) put_value(dresidual + i, g);
      const Slope<A>& s = slopes.get()[c];
      if (dx) put_value(dx + i, g * s.slope + (positive(c, i) ? s.above : s.below));
    });
  }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
