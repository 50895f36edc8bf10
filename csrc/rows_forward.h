// Forward pass, layout `rows`: a block of channels is read three times while the last-level cache
// holds it; the threads share its rows.
#pragma once
#include "channel.h"
#include "plan.h"
#include "rows.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

template <class T>
struct RowsForward {
  using A = Acc<T>;
  using P = Pack<A>;

  const l1bn_forward_args& args;
  const Plan plan;
  const int64_t rows, channels;
  const Groups groups;
  const T* const x;
  const T* const residual;
  T* const y;
  A* const mean;
  A* const scale;
  uint16_t* const bits;
  const bool frozen;
  const bool streaming;
  // Of one block of channels: centre, slope, shift, rest of the mean per group, and per member a
  // sum, a maximum, and a mean in two parts.
  const int64_t width;  // groups of a block, at most
  Buffer<P> constants;
  Buffer<Wide> sums;
  Buffer<P> maxima;
  Buffer<P> running;

  RowsForward(const l1bn_forward_args& a, const Plan& p, bool is_frozen)
      : args(a),
        plan(p),
        rows(a.problem.outer),
        channels(a.problem.channels),
        groups{a.problem.channels},
        x(static_cast<const T*>(a.x)),
        residual(static_cast<const T*>(a.residual)),
        y(static_cast<T*>(a.y)),
        mean(static_cast<A*>(a.mean)),
        scale(static_cast<A*>(a.scale)),
        bits(static_cast<uint16_t*>(a.bits)),
        frozen(is_frozen),
        streaming(p.streaming && a.problem.channels % kLanes == 0 &&
                  (uintptr_t)a.y % 64 == 0),
        width((p.batch + kLanes - 1) / kLanes),
        constants(4 * width),
        sums((size_t)p.threads * 2 * width),
        maxima((size_t)p.threads * 2 * width),
        running((size_t)p.threads * width) {}

  // Sums of `term(x - centre)` over this member's rows, flushed to double tile by tile.
  template <class Term>
  void accumulate(const Team& team, int64_t first, int64_t last, int64_t begin, int64_t end,
                  bool backwards, const P* centre, const P* low, Wide* out, Term&& term) const {
    const int64_t count = end - begin;
    P* sum = running.get() + (int64_t)team.index * width;
    for (int64_t g = 0; g < count; ++g) {
      out[g].clear();
      sum[g] = P::all(0);
    }
    const T* const x_from = x;
    const int64_t stride = channels;
    for_tiles(
        first, last, begin, end, plan.abreast, backwards,
        [&](auto r, int64_t group, int64_t row) __attribute__((always_inline)) {
          constexpr int R = decltype(r)::value;
          const int64_t g = group - begin;
          const T* from = x_from + row * stride + Groups{stride}.start(group);
          const P middle = centre[g], rest = low[g];
          P total = term(load(from) - middle, rest);
          L1BN_UNROLL for (int i = 1; i < R; ++i) total +=
              term(load(from + i * stride) - middle, rest);
          sum[g] += total;
        },
        [&]() __attribute__((always_inline)) {
          for (int64_t g = 0; g < count; ++g) {
            out[g].add(sum[g]);
            sum[g] = P::all(0);
          }
        });
  }

  // The sum over all members, in every lane's own channel.
  void total(const Team& team, int kind, int64_t group, double* lanes) const {
    Pack<double> sum = Pack<double>::all(0);
    for (int member = 0; member < team.size; ++member)
      sum += sums.get()[(member * 2 + kind) * width + group].lanes;
    sum.store(lanes);
  }

  void statistics(const Team& team, int64_t first, int64_t last, int64_t begin,
                  int64_t end) const {
    Wide* mine = sums.get() + (int64_t)team.index * 2 * width;
    P* centre = maxima.get() + (int64_t)team.index * 2 * width;  // not yet needed for maxima
    P* low = centre + width;
    double lanes[kLanes];
    for (int64_t g = begin; g < end; ++g) {
      centre[g - begin] = load(x + groups.start(g));
      low[g - begin] = P::all(0);
    }
    accumulate(team, first, last, begin, end, false, centre, low, mine,
               [](const P& d, const P&) __attribute__((always_inline)) { return d; });
    team.wait();
    for (int64_t g = begin; g < end; ++g) {
      A middle[kLanes], rest[kLanes];
      centre[g - begin].store(middle);
      total(team, 0, g - begin, lanes);
      for (int j = 0; j < kLanes; ++j)
        split_mean((double)middle[j] + lanes[j] / (double)rows, &middle[j], &rest[j]);
      centre[g - begin] = P::load(middle);
      low[g - begin] = P::load(rest);
    }
    accumulate(team, first, last, begin, end, true, centre, low, mine + width,
               [](const P& d, const P& rest) __attribute__((always_inline)) {
                 return absolute(d - rest);
               });
    team.wait();
    for (int64_t g = begin + team.index; g < end; g += team.size) {
      A middle[kLanes], rest[kLanes];
      centre[g - begin].store(middle);
      low[g - begin].store(rest);
      total(team, 1, g - begin, lanes);
      const int64_t start = groups.start(g);
      for (int64_t j = 0; j < kLanes; ++j) {
        mean[start + j] = middle[j];
        mean[channels + start + j] = rest[j];
        scale[start + j] = scale_of<A>(lanes[j], (double)rows, args.problem.eps);
      }
    }
    team.wait();
  }

  void prepare(const Team& team, int64_t begin, int64_t end) const {
    for (int64_t g = begin + team.index; g < end; g += team.size) {
      A centre[kLanes], slope[kLanes], shift[kLanes], rest[kLanes];
      const int64_t start = groups.start(g);
      for (int64_t j = 0; j < kLanes; ++j) {
        const int64_t c = start + j;
        centre[j] = mean[c];
        const double gamma = read_param(args.weight, args.problem.param_dtype, c, 1);
        slope[j] = (A)(gamma / (double)scale[c]);
        rest[j] = mean[channels + c];
        shift[j] = shift_of(args, c, gamma, rest[j], scale[c]);
      }
      P* to = constants.get() + 4 * (g - begin);
      to[0] = P::load(centre);
      to[1] = P::load(slope);
      to[2] = P::load(shift);
      to[3] = P::load(rest);
    }
    team.wait();
  }

  template <bool kResidual, bool kStream>
  void write(const Team& team, int64_t first, int64_t last, int64_t begin,
             int64_t end) const {
    A low_value, high_value;
    activation_range(args.problem.activation, &low_value, &high_value);
    const P low = P::all(low_value), high = P::all(high_value);
    P* most = maxima.get() + (int64_t)team.index * 2 * width;
    for (int64_t g = begin; g < end; ++g) most[g - begin] = P::all(0);
    // Locals: a store through y must not make them be read again.
    const T* const x_from = x;
    const T* const r_from = residual;
    T* const to = y;
    uint16_t* const units_to = bits;
    const int64_t stride = channels, height = rows;
    const P* const of_group = constants.get() - 4 * begin;
    for_tiles(
        first, last, begin, end, plan.abreast, false,
        [&](auto r, int64_t group, int64_t row) __attribute__((always_inline)) {
          constexpr int R = decltype(r)::value;
          const P* c = of_group + 4 * group;
          const P centre = c[0], slope = c[1], shift = c[2], rest = c[3];
          const int64_t from = row * stride + Groups{stride}.start(group);
          uint16_t units[R];
          L1BN_UNROLL for (int i = 0; i < R; ++i) {
            const int64_t at = from + i * stride;
            const P d = load(x_from + at) - centre;
            P z = d * slope + shift;
            if constexpr (kResidual) {
              const P added = load(r_from + at);
              z += added;
              most[group - begin] = maximum(most[group - begin], absolute(added));
            }
            if constexpr (kStream)
              put_streaming(to + at, clamp(z, low, high));
            else
              store(to + at, clamp(z, low, high));
            units[i] = (uint16_t)at_least_bits(d, rest);
          }
          if (units_to) memcpy(units_to + group * height + row, units, sizeof units);
        },
        [] {});
    if (kStream) stream_fence();
  }

  template <bool kStream>
  void write_any(const Team& team, int64_t first, int64_t last, int64_t begin,
                 int64_t end) const {
    if (residual)
      write<true, kStream>(team, first, last, begin, end);
    else
      write<false, kStream>(team, first, last, begin, end);
  }

  int64_t unrecoverable(const Team& team, int64_t begin, int64_t end) const {
    if (residual) team.wait();
    if (team.index != 0) return 0;
    int64_t bad = 0;
    for (int64_t g = begin; g < end; ++g) {
      P most = P::all(0);
      for (int member = 0; residual && member < team.size; ++member)
        most = maximum(most, maxima.get()[member * 2 * width + g - begin]);
      A top[kLanes];
      most.store(top);
      const int64_t start = groups.start(g), fresh = groups.fresh(g);
      for (int64_t j = fresh; j < kLanes; ++j) {
        const double gamma = read_param(args.weight, args.problem.param_dtype, start + j, 1);
        const double beta = read_param(args.bias, args.problem.param_dtype, start + j, 0);
        const bool floored = !frozen && scale[start + j] <= scale_floor<A>(args.problem.eps);
        bad += !recoverable<T>(gamma, beta, (double)top[j], args.recoverable) || floored;
      }
    }
    return bad;
  }

  int64_t block(const Team& team, int64_t begin, int64_t end) const {
    const int64_t first = rows * team.index / team.size, last = rows * (team.index + 1) / team.size;
    if (!frozen) statistics(team, first, last, begin, end);
    prepare(team, begin, end);
    if (streaming)
      write_any<true>(team, first, last, begin, end);
    else
      write_any<false>(team, first, last, begin, end);
    const int64_t bad = unrecoverable(team, begin, end);
    team.wait();  // the next block reuses the buffers
    return bad;
  }

  int64_t run() const {
    if (!constants.get() || !sums.get() || !maxima.get() || !running.get())
      return -2;
    int64_t bad = 0;
    auto body = [&](Team team) {
      int64_t mine = 0;
      for (int64_t g = 0; g < groups.count(); g += width) {
        const int64_t end = g + width < groups.count() ? g + width : groups.count();
        mine += block(team, g, end);
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
