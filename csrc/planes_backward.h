// Backward pass, layout `planes`: one pass for the two sums of a channel, one for dx.
#pragma once
#include "planes_forward.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

template <class T>
struct PlanesBackward {
  using A = Acc<T>;
  using P = Pack<A>;

  const l1bn_backward_args& args;
  const Plan plan;
  const int64_t outer, channels, inner;
  const T* const grad;
  const T* const y;
  const T* const x;
  const T* const residual;
  const uint16_t* const bits;
  T* const dx;
  T* const dresidual;
  const A* const mean;
  const A* const scale;
  const int64_t plane_units;
  A low, high;
  Buffer<double> partials;  // [member][g, g·q, positive][channel of the batch]

  PlanesBackward(const l1bn_backward_args& a, const Plan& p)
      : args(a),
        plan(p),
        outer(a.problem.outer),
        channels(a.problem.channels),
        inner(a.problem.inner),
        grad(static_cast<const T*>(a.grad)),
        y(static_cast<const T*>(a.y)),
        x(static_cast<const T*>(a.x)),
        residual(static_cast<const T*>(a.x ? nullptr : a.residual)),
        bits(static_cast<const uint16_t*>(a.x ? nullptr : a.bits)),
        dx(static_cast<T*>(a.dx)),
        dresidual(static_cast<T*>(a.dresidual)),
        mean(static_cast<const A*>(a.mean)),
        scale(static_cast<const A*>(a.scale)),
        plane_units((inner + kLanes - 1) / kLanes),
        partials(p.split ? (size_t)p.threads * 3 * kMaxPlaneBatch : 0) {
    activation_range(a.problem.activation, &low, &high);
  }

  int64_t at(int64_t plane, int64_t channel) const { return (plane * channels + channel) * inner; }
  double param(const void* vector, int64_t c, double missing) const {
    return read_param(vector, args.problem.param_dtype, c, missing);
  }
  double* slot(int member, int kind) const {
    return partials.get() + (member * 3 + kind) * kMaxPlaneBatch;
  }

  struct Sums {
    double grad[kMaxPlaneBatch] = {};     // Σ g
    double product[kMaxPlaneBatch] = {};  // Σ g·(x − µ), or Σ g·(y − β − residual)
    double positive[kMaxPlaneBatch] = {};  // elements with x >= µ
  };

  void reduce(const Team& team, Sums* sums, int64_t count) const {
    if (team.size == 1) return;
    double* kinds[3] = {sums->grad, sums->product, sums->positive};
    for (int kind = 0; kind < 3; ++kind)
      memcpy(slot(team.index, kind), kinds[kind], count * sizeof(double));
    team.wait();
    for (int kind = 0; kind < 3; ++kind)
      for (int64_t i = 0; i < count; ++i) {
        double total = 0;
        for (int member = 0; member < team.size; ++member) total += slot(member, kind)[i];
        kinds[kind][i] = total;
      }
    team.wait();  // all have read before the next batch writes
  }

  // Bits set for `length` elements. The last unit repeats elements of the one before.
  static int64_t count_bits(const uint16_t* units, int64_t length) {
    const int64_t whole = length / kLanes, rest = length % kLanes;
    int64_t total = 0, i = 0;
    for (; i + 4 <= whole; i += 4) {
      uint64_t four;
      memcpy(&four, units + i, sizeof four);
      total += __builtin_popcountll(four);
    }
    for (; i < whole; ++i) total += __builtin_popcount(units[i]);
    if (rest) total += __builtin_popcount((unsigned)units[whole] >> (kLanes - rest));
    return total;
  }

  // kInput: x is there. kActive: there is an activation, so g is masked by y.
  template <bool kInput, bool kActive, bool kResidual>
  void sums(const Share& share, int64_t first, int64_t count, Sums* out) const {
    Wide grad_sum[kMaxPlaneBatch], product[kMaxPlaneBatch];
    for (int64_t i = 0; i < count; ++i) {
      grad_sum[i].clear();
      product[i].clear();
    }
    const P low_pack = P::all(low), high_pack = P::all(high);
    share.walk(false, [&](int64_t plane, int64_t offset, int64_t length) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t c = first + i, from = at(plane, c) + offset;
        const P centre = P::all(kInput ? mean[c] : (A)param(args.bias, c, 0));
        const P rest = P::all(mean[channels + c]);
        const T* g_from = grad + from;
        const T* y_from = y && (kActive || !kInput) ? y + from : nullptr;
        const T* x_from = kInput ? x + from : nullptr;
        const T* r_from = kResidual ? residual + from : nullptr;
        Two<A> g_sum, q_sum;
        int64_t positive = 0;
        for_chunks(length, [&](auto how, int64_t pos, int64_t, auto k) __attribute__((always_inline)) {
          P g = how.get(g_from + pos), q = P::all(0);
          if constexpr (kActive) {
            const P out_value = how.get(y_from + pos);
            g = between(out_value, low_pack, high_pack, g);
            if constexpr (!kInput) q = out_value - centre;
            if constexpr (kResidual) q = q - how.get(r_from + pos);
          } else if constexpr (!kInput) {
            if (y_from) q = how.get(y_from + pos) - centre;
          }
          if constexpr (kInput) {
            q = how.get(x_from + pos) - centre;
            positive += __builtin_popcount(at_least_bits(q, rest) & how.mask);
          }
          g = how.keep(g);
          g_sum.part[k.value] += g;
          q_sum.part[k.value] += how.keep(g * q);
        });
        grad_sum[i].add(g_sum.total());
        product[i].add(q_sum.total());
        if (!kInput && bits)
          positive = count_bits(bits + (plane * channels + c) * plane_units + offset / kLanes, length);
        out->positive[i] += (double)positive;
      }
    });
    for (int64_t i = 0; i < count; ++i) {
      out->grad[i] = grad_sum[i].sum();
      out->product[i] = product[i].sum();
    }
  }

  template <bool kInput, bool kActive>
  void write(const Share& share, int64_t first, int64_t count, const Slope<A>* slopes) const {
    Stage<T> stage_x(plan.streaming), stage_r(plan.streaming && dresidual);
    const P low_pack = P::all(low), high_pack = P::all(high);
    share.walk(true, [&](int64_t plane, int64_t offset, int64_t length) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t c = first + i, from = at(plane, c) + offset;
        const P slope = P::all(slopes[i].slope), above = P::all(slopes[i].above);
        const P below = P::all(slopes[i].below), centre = P::all(mean[c]);
        const P rest = P::all(mean[channels + c]);
        const T* g_from = grad + from;
        const T* y_from = kActive ? y + from : nullptr;
        const T* x_from = kInput ? x + from : nullptr;
        const uint16_t* b =
            bits ? bits + (plane * channels + c) * plane_units + offset / kLanes : nullptr;
        T* to = dx ? stage_x.begin(dx + from) : nullptr;
        T* to_r = dresidual ? stage_r.begin(dresidual + from) : nullptr;
        for_chunks(length, [&](auto how, int64_t pos, int64_t chunk, auto) __attribute__((always_inline)) {
          P g = how.get(g_from + pos);
          if constexpr (kActive) g = between(how.get(y_from + pos), low_pack, high_pack, g);
          if (to_r) how.put(to_r + pos, g);
          if (!to) return;
          unsigned bit;
          if constexpr (kInput)
            bit = at_least_bits(how.get(x_from + pos) - centre, rest);
          else
            bit = b ? b[chunk] : 0;
          how.put(to + pos, g * slope + choose(bit, above, below));
        });
        if (dx) stage_x.end(length);
        if (to_r) stage_r.end(length);
      }
    });
  }

  void sums_any(const Share& share, int64_t first, int64_t count, Sums* out) const {
    const bool active = args.problem.activation != L1BN_NONE;
    if (x)
      active ? sums<true, true, false>(share, first, count, out)
             : sums<true, false, false>(share, first, count, out);
    else if (active)
      residual ? sums<false, true, true>(share, first, count, out)
               : sums<false, true, false>(share, first, count, out);
    else
      sums<false, false, false>(share, first, count, out);
  }

  void write_any(const Share& share, int64_t first, int64_t count, const Slope<A>* slopes) const {
    if (!dx && !dresidual) return;
    const bool active = args.problem.activation != L1BN_NONE;
    if (x)
      active ? write<true, true>(share, first, count, slopes)
             : write<true, false>(share, first, count, slopes);
    else
      active ? write<false, true>(share, first, count, slopes)
             : write<false, false>(share, first, count, slopes);
  }

  void batch(const Team& team, int64_t first) const {
    const int64_t count = first + plan.batch < channels ? plan.batch : channels - first;
    const Share share = Share::of(outer, inner, team.index, team.size);
    const double elements = (double)outer * (double)inner;
    Sums totals;
    Slope<A> slopes[kMaxPlaneBatch];
    if (!args.frozen || args.dweight || args.dbias) {
      sums_any(share, first, count, &totals);
      reduce(team, &totals, count);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t c = first + i;
      const double gamma = param(args.weight, c, 1), sigma = (double)scale[c];
      const double product =
          totals.product[i] - (x ? (double)mean[channels + c] * totals.grad[i] : 0.0);
      const double grad_weight = product / (x ? sigma : gamma);
      slopes[i] = slope_of<A>(gamma, sigma, elements, totals.grad[i], grad_weight,
                              totals.positive[i], args.problem.eps, args.frozen);
      if (team.index != 0) continue;
      if (args.dweight) static_cast<A*>(args.dweight)[c] = (A)grad_weight;
      if (args.dbias) static_cast<A*>(args.dbias)[c] = (A)totals.grad[i];
    }
    write_any(share, first, count, slopes);
  }

  int64_t run() const {
    if (plan.split && !partials.get()) return -2;
    int64_t next = 0;
    auto body = [&](Team team) {
      if (plan.split) {
        for (int64_t c = 0; c < channels; c += plan.batch) batch(team, c);
        return;
      }
      for (;;) {
        const int64_t c = __atomic_fetch_add(&next, plan.batch, __ATOMIC_RELAXED);
        if (c >= channels) break;
        batch(Team{0, 1}, c);
      }
    };
    parallel_run(plan.threads, body);
    return 0;
  }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
