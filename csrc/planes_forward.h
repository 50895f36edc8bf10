// Forward pass, layout `planes`: the batch of channels stays in the cache over the three passes.
#pragma once
#include "channel.h"
#include "plan.h"
#include "spans.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

constexpr int kMaxPlaneBatch = 64;

template <class T>
struct PlanesForward {
  using A = Acc<T>;
  using P = Pack<A>;

  const l1bn_forward_args& args;
  const Plan plan;
  const int64_t outer, channels, inner;
  const T* const x;
  const T* const residual;
  T* const y;
  A* const mean;
  A* const scale;
  uint16_t* const bits;
  const int64_t plane_units;  // 16-bit units of bits per plane
  const bool frozen;
  Buffer<double> partials;  // [member][sum, absolute sum, residual maximum][channel of the batch]

  PlanesForward(const l1bn_forward_args& a, const Plan& p, bool is_frozen)
      : args(a),
        plan(p),
        outer(a.problem.outer),
        channels(a.problem.channels),
        inner(a.problem.inner),
        x(static_cast<const T*>(a.x)),
        residual(static_cast<const T*>(a.residual)),
        y(static_cast<T*>(a.y)),
        mean(static_cast<A*>(a.mean)),
        scale(static_cast<A*>(a.scale)),
        bits(static_cast<uint16_t*>(a.bits)),
        plane_units((inner + kLanes - 1) / kLanes),
        frozen(is_frozen),
        partials(p.split ? (size_t)p.threads * 3 * kMaxPlaneBatch : 0) {}

  int64_t at(int64_t plane, int64_t channel) const { return (plane * channels + channel) * inner; }

  bool floored(A s) const { return !frozen && s <= scale_floor<A>(args.problem.eps); }

  double* slot(int member, int kind) const {
    return partials.get() + (member * 3 + kind) * kMaxPlaneBatch;
  }

  // Sum over the members of a team; every member gets the same bits.
  void reduce(const Team& team, int kind, double* values, int64_t count) const {
    if (team.size == 1) return;
    memcpy(slot(team.index, kind), values, count * sizeof(double));
    team.wait();
    for (int64_t i = 0; i < count; ++i) {
      double total = 0;
      for (int member = 0; member < team.size; ++member) total += slot(member, kind)[i];
      values[i] = total;
    }
  }

  template <class Term>
  void sums(const Share& share, bool backwards, int64_t first, int64_t count, double* out,
            Term&& term) const {
    Wide wide[kMaxPlaneBatch];
    for (int64_t i = 0; i < count; ++i) wide[i].clear();
    share.walk(backwards, [&](int64_t plane, int64_t offset, int64_t length) {
      for (int64_t i = 0; i < count; ++i) {
        const T* p = x + at(plane, first + i) + offset;
        Two<A> sum;
        const P centre = P::all(term.centre[i]), low = P::all(term.low[i]);
        for_chunks(length, [&](auto how, int64_t pos, int64_t, auto k) __attribute__((always_inline)) {
          sum.part[k.value] += how.keep(term(how.get(p + pos) - centre, low));
        });
        wide[i].add(sum.total());
      }
    });
    for (int64_t i = 0; i < count; ++i) out[i] = wide[i].sum();
  }

  struct Plain {
    const A *centre, *low;
    L1BN_INLINE P operator()(const P& d, const P&) const { return d; }
  };
  struct Absolute {
    const A *centre, *low;
    L1BN_INLINE P operator()(const P& d, const P& low_part) const { return absolute(d - low_part); }
  };

  void statistics(const Share& share, const Team& team, int64_t first, int64_t count) const {
    const double elements = (double)outer * (double)inner;
    A centre[kMaxPlaneBatch], low[kMaxPlaneBatch] = {};
    double sum[kMaxPlaneBatch];
    // Around the first value: large means cost no digits.
    for (int64_t i = 0; i < count; ++i) centre[i] = load_one(x + at(0, first + i));
    sums(share, false, first, count, sum, Plain{centre, low});
    reduce(team, 0, sum, count);
    for (int64_t i = 0; i < count; ++i)
      split_mean((double)centre[i] + sum[i] / elements, &centre[i], &low[i]);
    sums(share, true, first, count, sum, Absolute{centre, low});
    reduce(team, 1, sum, count);
    if (team.index != 0) return;
    for (int64_t i = 0; i < count; ++i) {
      mean[first + i] = centre[i];
      mean[channels + first + i] = low[i];
      scale[first + i] = scale_of<A>(sum[i], elements, args.problem.eps);
    }
  }

  template <bool kResidual>
  void write(const Share& share, int64_t first, int64_t count, double* residual_max) const {
    Stage<T> stage(plan.streaming);
    A low_value, high_value;
    activation_range(args.problem.activation, &low_value, &high_value);
    const P low = P::all(low_value), high = P::all(high_value);
    share.walk(false, [&](int64_t plane, int64_t offset, int64_t length) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t c = first + i, from = at(plane, c) + offset;
        const double gamma = read_param(args.weight, args.problem.param_dtype, c, 1);
        const P centre = P::all(mean[c]), slope = P::all((A)(gamma / (double)scale[c]));
        const P shift = P::all(shift_of(args, c, gamma, mean[channels + c], scale[c]));
        const P rest = P::all(mean[channels + c]);
        const T* p = x + from;
        const T* r = kResidual ? residual + from : nullptr;
        uint16_t* b =
            bits ? bits + (plane * channels + c) * plane_units + offset / kLanes : nullptr;
        T* out = stage.begin(y + from);
        P most = P::all(0);
        for_chunks(length, [&](auto how, int64_t pos, int64_t chunk, auto) __attribute__((always_inline)) {
          const P d = how.get(p + pos) - centre;
          P z = d * slope + shift;
          if constexpr (kResidual) {
            const P added = how.get(r + pos);
            z += added;
            most = maximum(most, absolute(added));
          }
          how.put(out + pos, clamp(z, low, high));
          if (b) b[chunk] = (uint16_t)at_least_bits(d, rest);
        });
        stage.end(length);
        if constexpr (kResidual) {
          const double top = (double)horizontal_max(most);
          if (top > residual_max[i]) residual_max[i] = top;
        }
      }
    });
  }

  int64_t unrecoverable(const Team& team, int64_t first, int64_t count,
                        double* residual_max) const {
    if (team.size > 1 && residual) {
      memcpy(slot(team.index, 2), residual_max, count * sizeof(double));
      team.wait();
    }
    if (team.index != 0) return 0;
    int64_t bad = 0;
    for (int64_t i = 0; i < count; ++i) {
      double top = residual_max[i];
      for (int member = 1; residual && member < team.size; ++member)
        top = slot(member, 2)[i] > top ? slot(member, 2)[i] : top;
      const double gamma = read_param(args.weight, args.problem.param_dtype, first + i, 1);
      const double beta = read_param(args.bias, args.problem.param_dtype, first + i, 0);
      bad += !recoverable<T>(gamma, beta, top, args.recoverable) || floored(scale[first + i]);
    }
    return bad;
  }

  int64_t batch(const Team& team, int64_t first) const {
    const int64_t count = first + plan.batch < channels ? plan.batch : channels - first;
    const Share share = Share::of(outer, inner, team.index, team.size);
    double residual_max[kMaxPlaneBatch] = {};
    if (!frozen) {
      statistics(share, team, first, count);
      team.wait();  // the first member has stored mean and scale
    }
    if (residual)
      write<true>(share, first, count, residual_max);
    else
      write<false>(share, first, count, residual_max);
    return unrecoverable(team, first, count, residual_max);
  }

  int64_t run() const {
    if (plan.split && !partials.get()) return -2;
    int64_t next = 0, bad = 0;
    auto body = [&](Team team) {
      int64_t mine = 0;
      if (plan.split) {
        for (int64_t c = 0; c < channels; c += plan.batch) mine += batch(team, c);
      } else {
        for (;;) {
          const int64_t c = __atomic_fetch_add(&next, plan.batch, __ATOMIC_RELAXED);
          if (c >= channels) break;
          mine += batch(Team{0, 1}, c);
        }
      }
      __atomic_fetch_add(&bad, mine, __ATOMIC_RELAXED);
    };
    parallel_run(plan.threads, body);
    return bad;
  }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
