// Backward pass, layout `rows`.
#pragma once
#include "rows_forward.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

template <class T>
struct RowsBackward {
  using A = Acc<T>;
  using P = Pack<A>;

  const l1bn_backward_args& args;
  const Plan plan;
  const int64_t rows, channels;
  const Groups groups;
  const T* const grad;
  const T* const y;
  const T* const x;
  const T* const residual;
  const uint16_t* const bits;
  T* const dx;
  T* const dresidual;
  const A* const mean;
  const A* const scale;
  const bool streaming;
  const int64_t width;
  Buffer<P> constants;  // per group of a block: centre, slope, above, below, rest of the mean
  Buffer<Wide> sums;    // per member and group: g, g·q, positive
  Buffer<P> running;    // the same, not yet flushed

  RowsBackward(const l1bn_backward_args& a, const Plan& p)
      : args(a),
        plan(p),
        rows(a.problem.outer),
        channels(a.problem.channels),
        groups{a.problem.channels},
        grad(static_cast<const T*>(a.grad)),
        y(static_cast<const T*>(a.y)),
        x(static_cast<const T*>(a.x)),
        residual(static_cast<const T*>(a.x ? nullptr : a.residual)),
        bits(static_cast<const uint16_t*>(a.x ? nullptr : a.bits)),
        dx(static_cast<T*>(a.dx)),
        dresidual(static_cast<T*>(a.dresidual)),
        mean(static_cast<const A*>(a.mean)),
        scale(static_cast<const A*>(a.scale)),
        streaming(p.streaming && a.problem.channels % kLanes == 0 && (uintptr_t)a.dx % 64 == 0 &&
                  (uintptr_t)a.dresidual % 64 == 0),
        width((p.batch + kLanes - 1) / kLanes),
        constants(5 * width),
        sums((size_t)p.threads * 3 * width),
        running((size_t)p.threads * 3 * width) {}

  double param(const void* vector, int64_t c, double missing) const {
    return read_param(vector, args.problem.param_dtype, c, missing);
  }

  // kInput: x is there. kActive: there is an activation, so g is masked by y.
  template <bool kInput, bool kActive, bool kResidual>
  void accumulate(const Team& team, int64_t first, int64_t last, int64_t begin,
                  int64_t end) const {
    Wide* out = sums.get() + (int64_t)team.index * 3 * width;
    for (int64_t i = 0; i < 3 * width; ++i) out[i].clear();
    A low_value, high_value;
    activation_range(args.problem.activation, &low_value, &high_value);
    const P low = P::all(low_value), high = P::all(high_value);
    const int64_t count = end - begin;
    P* sum = running.get() + (int64_t)team.index * 3 * width;
    for (int64_t i = 0; i < 3 * count; ++i) sum[i] = P::all(0);
    const P one = P::all(1), zero = P::all(0);
    const T* const g_from = grad;
    const T* const y_from = y;
    const T* const x_from = x;
    const T* const r_from = residual;
    const uint16_t* const units_from = bits;
    const int64_t stride = channels, height = rows;
    const P* const of_group = constants.get() - 5 * begin;
    for_tiles(
        first, last, begin, end, plan.abreast, false,
        [&](auto r, int64_t group, int64_t row) __attribute__((always_inline)) {
          constexpr int R = decltype(r)::value;
          const int64_t from = row * stride + Groups{stride}.start(group);
          const P centre = of_group[5 * group];
          const P rest = of_group[5 * group + 4];
          P g_sum = zero, q_sum = zero, above = zero;
          uint16_t units[R] = {};
          if (units_from) memcpy(units, units_from + group * height + row, sizeof units);
          L1BN_UNROLL for (int i = 0; i < R; ++i) {
            const int64_t at = from + i * stride;
            P g = load(g_from + at), q = zero;
            if constexpr (kActive) {
              const P out_value = load(y_from + at);
              g = between(out_value, low, high, g);
              if constexpr (!kInput) q = out_value - centre;
              if constexpr (kResidual) q = q - load(r_from + at);
            } else if constexpr (!kInput) {
              if (y_from) q = load(y_from + at) - centre;
            }
            unsigned bit = units[i];
            if constexpr (kInput) {
              q = load(x_from + at) - centre;
              bit = at_least_bits(q, rest);
            }
            above += choose(bit, one, zero);
            g_sum += g;
            q_sum += g * q;
          }
          P* to = sum + 3 * (group - begin);
          to[0] += g_sum;
          to[1] += q_sum;
          to[2] += above;
        },
        [&]() __attribute__((always_inline)) {
          for (int64_t i = 0; i < count; ++i)
            for (int kind = 0; kind < 3; ++kind) {
              out[kind * width + i].add(sum[3 * i + kind]);
              sum[3 * i + kind] = zero;
            }
        });
  }

  template <bool kInput, bool kActive, bool kStream>
  void write(int64_t first, int64_t last, int64_t begin, int64_t end) const {
    A low_value, high_value;
    activation_range(args.problem.activation, &low_value, &high_value);
    const P low = P::all(low_value), high = P::all(high_value);
    const T* const g_from = grad;
    const T* const y_from = y;
    const T* const x_from = x;
    T* const to = dx;
    T* const to_r = dresidual;
    const uint16_t* const units_from = bits;
    const int64_t stride = channels, height = rows;
    const P* const of_group = constants.get() - 5 * begin;
    for_tiles(
        first, last, begin, end, plan.abreast, true,
        [&](auto r, int64_t group, int64_t row) __attribute__((always_inline)) {
          constexpr int R = decltype(r)::value;
          const P* c = of_group + 5 * group;
          const P slope = c[1], above = c[2], below = c[3];
          const int64_t from = row * stride + Groups{stride}.start(group);
          uint16_t units[R] = {};
          if (units_from) memcpy(units, units_from + group * height + row, sizeof units);
          L1BN_UNROLL for (int i = 0; i < R; ++i) {
            const int64_t at = from + i * stride;
            P g = load(g_from + at);
            if constexpr (kActive) g = between(load(y_from + at), low, high, g);
            if (to_r) put<kStream>(to_r + at, g);
            unsigned bit = units[i];
            if constexpr (kInput) bit = at_least_bits(load(x_from + at) - c[0], c[4]);
            if (to) put<kStream>(to + at, g * slope + choose(bit, above, below));
          }
        },
        [] {});
    if (kStream) stream_fence();
  }

  template <bool kStream>
  static L1BN_INLINE void put(T* to, const P& value) {
    if constexpr (kStream)
      put_streaming(to, value);
    else
      store(to, value);
  }

  void accumulate_any(const Team& team, int64_t first, int64_t last, int64_t begin,
                      int64_t end) const {
    const bool active = args.problem.activation != L1BN_NONE;
    if (x)
      active ? accumulate<true, true, false>(team, first, last, begin, end)
             : accumulate<true, false, false>(team, first, last, begin, end);
    else if (active)
      residual ? accumulate<false, true, true>(team, first, last, begin, end)
               : accumulate<false, true, false>(team, first, last, begin, end);
    else
      accumulate<false, false, false>(team, first, last, begin, end);
  }

  template <bool kStream>
  void write_any(int64_t first, int64_t last, int64_t begin, int64_t end) const {
    const bool active = args.problem.activation != L1BN_NONE;
    if (x)
      active ? write<true, true, kStream>(first, last, begin, end)
             : write<true, false, kStream>(first, last, begin, end);
    else
      active ? write<false, true, kStream>(first, last, begin, end)
             : write<false, false, kStream>(first, last, begin, end);
  }

  // What is subtracted before the product with g: µ from x, β from y.
  void centres(const Team& team, int64_t begin, int64_t end) const {
    for (int64_t g = begin + team.index; g < end; g += team.size) {
      A centre[kLanes] = {};
      for (int64_t j = 0; j < kLanes; ++j) {
        const int64_t c = groups.start(g) + j;
        centre[j] = x ? mean[c] : (A)param(args.bias, c, 0);
      }
      constants.get()[5 * (g - begin)] = P::load(centre);
      constants.get()[5 * (g - begin) + 4] = load(mean + channels + groups.start(g));
    }
    team.wait();
  }

  void lanes_total(const Team& team, int kind, int64_t group, double* lanes) const {
    Pack<double> sum = Pack<double>::all(0);
    for (int member = 0; member < team.size; ++member)
      sum += sums.get()[(member * 3 + kind) * width + group].lanes;
    sum.store(lanes);
  }

  void finish(const Team& team, int64_t begin, int64_t end, bool summed) const {
    team.wait();
    for (int64_t g = begin + team.index; g < end; g += team.size) {
      double grad_sum[kLanes] = {}, product[kLanes] = {}, positive[kLanes] = {};
      if (summed) {
        lanes_total(team, 0, g - begin, grad_sum);
        lanes_total(team, 1, g - begin, product);
        lanes_total(team, 2, g - begin, positive);
      }
      A slope[kLanes] = {}, above[kLanes] = {}, below[kLanes] = {};
      const int64_t start = groups.start(g), fresh = groups.fresh(g);
      for (int64_t j = 0; j < kLanes; ++j) {
        const int64_t c = start + j;
        const double gamma = param(args.weight, c, 1), sigma = (double)scale[c];
        const double rest = x ? (double)mean[channels + c] * grad_sum[j] : 0.0;
        const double grad_weight = (product[j] - rest) / (x ? sigma : gamma);
        const Slope<A> s = slope_of<A>(gamma, sigma, (double)rows, grad_sum[j], grad_weight,
                                       positive[j], args.problem.eps, args.frozen);
        slope[j] = s.slope;
        above[j] = s.above;
        below[j] = s.below;
        if (j < fresh) continue;
        if (args.dweight) static_cast<A*>(args.dweight)[c] = (A)grad_weight;
        if (args.dbias) static_cast<A*>(args.dbias)[c] = (A)grad_sum[j];
      }
      P* to = constants.get() + 5 * (g - begin);
      to[1] = P::load(slope);
      to[2] = P::load(above);
      to[3] = P::load(below);
    }
    team.wait();
  }

  void block(const Team& team, int64_t begin, int64_t end) const {
    const int64_t first = rows * team.index / team.size, last = rows * (team.index + 1) / team.size;
    const bool summed = !args.frozen || args.dweight || args.dbias;
    centres(team, begin, end);
    if (summed) accumulate_any(team, first, last, begin, end);
    finish(team, begin, end, summed);
    if (!dx && !dresidual) return;
    if (streaming)
      write_any<true>(first, last, begin, end);
    else
      write_any<false>(first, last, begin, end);
  }

  int64_t run() const {
    if (!constants.get() || !sums.get() || !running.get()) return -2;
    auto body = [&](Team team) {
      for (int64_t g = 0; g < groups.count(); g += width) {
        const int64_t end = g + width < groups.count() ? g + width : groups.count();
        block(team, g, end);
        team.wait();  // the next block reuses the buffers
      }
    };
    parallel_run(plan.threads, body);
    return 0;
  }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
