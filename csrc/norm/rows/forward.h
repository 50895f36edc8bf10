// Forward pass, layout `rows`: whole rows are read three times in the order of memory; the threads
// share them.
#pragma once
#include "common/plan.h"
#include "norm/channel.h"
#include "norm/curve.h"
#include "norm/rows/walk.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

template <class T>
struct RowsForward {
  using A = Acc<T>;
  using P = Pack<A>;
  static constexpr int kConstants = 4;

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
  // Per group: centre, slope, shift, rest of the mean; and per member sums, a maximum, and a mean
  // in two parts.
  const int64_t width;  // groups
  Buffer<P> constants;
  Buffer<Wide> sums;
  Buffer<P> maxima;
  Buffer<P> running;
  Buffer<A> bent;  // a member's tile of z, before its activation and a rounding to 16 bits

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
                  reinterpret_cast<uintptr_t>(a.y) % 64 == 0 && !bends(a.problem.activation)),
        width(groups.count()),
        constants(kConstants * width),
        sums(size_t(p.threads) * 2 * width),
        maxima(size_t(p.threads) * 2 * width),
        running(size_t(p.threads) * width),
        bent(sizeof(T) == 2 && bends(a.problem.activation) ? size_t(p.threads) * tile() : 0) {}

  // Elements of a tile, and what the last pack may write behind them.
  int64_t tile() const { return kTileRows * channels + kLanes; }

  // Sums of `term(x - centre)` over this member's rows, flushed to double tile by tile.
  template <class Term>
  void accumulate(const Team& team, int64_t first, int64_t last, bool backwards, const P* centre,
                  const P* low, Wide* out, Term&& term) const {
    const T* const x_from = x;
    for (int64_t g = 0; g < width; ++g) out[g].clear();
    const bool done = if_narrow<T, 16>(channels, [&](auto narrow) L1BN_INLINED {
      for_tiles(first, last, backwards, [&](int64_t row, int64_t stop) L1BN_INLINED {
        P sum[narrow.packs];
        for (P& s : sum) s = P::all(0);
        narrow.walk(row, stop, [&](int j, int g, int64_t at) L1BN_INLINED {
          sum[j] += term(load(x_from + at) - centre[g], low[g]);
        });
        for (int j = 0; j < narrow.packs; ++j) out[j % narrow.groups].add(sum[j]);
      });
    });
    if (done) return;
    P* const sum = running.get() + int64_t(team.index) * width;
    for (int64_t g = 0; g < width; ++g) sum[g] = P::all(0);
    const Groups columns = groups;
    const int64_t count = width;
    for_tiles(first, last, backwards, [&](int64_t row, int64_t stop) L1BN_INLINED {
      for (; row < stop; ++row) L1BN_UNROLL_SOME
      for (int64_t g = 0; g < count; ++g)
        sum[g] +=
            term(load(x_from + row * columns.channels + columns.start(g)) - centre[g], low[g]);
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

  void statistics(const Team& team, int64_t first, int64_t last) const {
    Wide* mine = sums.get() + int64_t(team.index) * 2 * width;
    P* centre = maxima.get() + int64_t(team.index) * 2 * width;  // not yet needed for maxima
    P* low = centre + width;
    double lanes[kLanes];
    for (int64_t g = 0; g < width; ++g) {
      centre[g] = load(x + groups.start(g));
      low[g] = P::all(0);
    }
    accumulate(team, first, last, false, centre, low, mine,
               [](const P& d, const P&) L1BN_INLINED { return d; });
    team.wait();
    for (int64_t g = 0; g < width; ++g) {
      A middle[kLanes], rest[kLanes];
      centre[g].store(middle);
      total(team, 0, g, lanes);
      for (int j = 0; j < kLanes; ++j)
        split_mean(double(middle[j]) + lanes[j] / double(rows), &middle[j], &rest[j]);
      centre[g] = P::load(middle);
      low[g] = P::load(rest);
    }
    accumulate(team, first, last, true, centre, low, mine + width,
               [](const P& d, const P& rest) L1BN_INLINED { return absolute(d - rest); });
    team.wait();
    for (int64_t g = team.index; g < width; g += team.size) {
      A middle[kLanes], rest[kLanes];
      centre[g].store(middle);
      low[g].store(rest);
      total(team, 1, g, lanes);
      const int64_t start = groups.start(g);
      for (int64_t j = 0; j < kLanes; ++j) {
        mean[start + j] = middle[j];
        mean[channels + start + j] = rest[j];
        scale[start + j] = scale_of<A>(lanes[j], double(rows), args.problem.eps);
      }
    }
    team.wait();
  }

  void prepare(const Team& team) const {
    for (int64_t g = team.index; g < width; g += team.size) {
      A centre[kLanes], slope[kLanes], shift[kLanes], rest[kLanes];
      const int64_t start = groups.start(g);
      for (int64_t j = 0; j < kLanes; ++j) {
        const int64_t c = start + j;
        centre[j] = mean[c];
        const double gamma = read_param(args.weight, args.problem.param_dtype, c, 1);
        slope[j] = A(gamma / double(scale[c]));
        rest[j] = mean[channels + c];
        shift[j] = shift_of(args, c, gamma, rest[j], scale[c]);
      }
      P* to = constants.get() + kConstants * g;
      to[0] = P::load(centre);
      to[1] = P::load(slope);
      to[2] = P::load(shift);
      to[3] = P::load(rest);
    }
    team.wait();
  }

  template <bool kResidual, bool kStream>
  void write(const Team& team, int64_t first, int64_t last) const {
    const Curve<T> curve(args.problem);
    A low_value, high_value;
    activation_range(args.problem.activation, &low_value, &high_value);
    const P low = P::all(low_value), high = P::all(high_value);
    P* most = maxima.get() + int64_t(team.index) * 2 * width;
    for (int64_t g = 0; g < width; ++g) most[g] = P::all(0);
    // Locals: a store through y must not make them be read again.
    const T* const x_from = x;
    const T* const r_from = residual;
    T* const to = y;
    uint16_t* const units_to = bits;
    const P* const of_group = constants.get();
    A* const waiting = bent.get() ? bent.get() + int64_t(team.index) * tile() : nullptr;
    int64_t tile_from = 0;
    auto one = [&](int64_t at, const P* c, int64_t unit, P* top) L1BN_INLINED {
      const P d = load(x_from + at) - c[0];
      P z = d * c[1] + c[2];
      if constexpr (kResidual) {
        const P added = load(r_from + at);
        z += added;
        *top = maximum(*top, absolute(added));
      }
      if (sizeof(T) == 2 && waiting)
        z.store(waiting + (at - tile_from));
      else
        put<kStream>(to + at, clamp(z, low, high));
      if (units_to) units_to[unit] = uint16_t(at_least_bits(d, c[3]));
    };
    const Groups columns = groups;
    const int64_t count = width;
    // What bends is passed through its activation while it is in the cache.
    const int64_t step = curve ? kTileRows : last - first;
    for (int64_t begin = first; begin < last; begin += step) {
      const int64_t end = begin + step < last ? begin + step : last;
      tile_from = begin * columns.channels;
      const bool done = if_narrow<T, 16>(channels, [&](auto narrow) L1BN_INLINED {
        constexpr int G = decltype(narrow)::groups;
        P c[G][kConstants], top[G];
        for (int g = 0; g < G; ++g) {
          for (int k = 0; k < kConstants; ++k) c[g][k] = of_group[kConstants * g + k];
          top[g] = most[g];
        }
        narrow.walk(begin, end, [&](int, int g, int64_t at) L1BN_INLINED {
          one(at, c[g], at / kLanes, top + g);
        });
        if constexpr (kResidual)
          for (int g = 0; g < G; ++g) most[g] = top[g];
      });
      for (int64_t row = begin; !done && row < end; ++row) L1BN_UNROLL_SOME
      for (int64_t g = 0; g < count; ++g)
        one(row * columns.channels + columns.start(g), of_group + kConstants * g, row * count + g,
            most + g);
      const int64_t elements = (end - begin) * columns.channels;
      if constexpr (sizeof(T) == 2) {
        if (curve) curve.apply(waiting, to + tile_from, elements);
      } else if (curve) {
        curve.apply(to + tile_from, elements);
      }
    }
    if (kStream) stream_fence();
  }

  template <bool kStream>
  void write_any(const Team& team, int64_t first, int64_t last) const {
    if (residual)
      write<true, kStream>(team, first, last);
    else
      write<false, kStream>(team, first, last);
  }

  int64_t unrecoverable(const Team& team) const {
    if (residual) team.wait();
    if (team.index != 0) return 0;
    int64_t bad = 0;
    for (int64_t g = 0; g < width; ++g) {
      P most = P::all(0);
      for (int member = 0; residual && member < team.size; ++member)
        most = maximum(most, maxima.get()[member * 2 * width + g]);
      A top[kLanes];
      most.store(top);
      const int64_t start = groups.start(g), fresh = groups.fresh(g);
      for (int64_t j = fresh; j < kLanes; ++j) {
        const double gamma = read_param(args.weight, args.problem.param_dtype, start + j, 1);
        const double beta = read_param(args.bias, args.problem.param_dtype, start + j, 0);
        const bool floored = !frozen && scale[start + j] <= scale_floor<A>(args.problem.eps);
        bad +=
            !recoverable<T>(gamma, beta, double(top[j]), args.recoverable, args.problem) || floored;
      }
    }
    return bad;
  }

  int64_t member(const Team& team) const {
    const int64_t first = rows * team.index / team.size, last = rows * (team.index + 1) / team.size;
    if (!frozen) statistics(team, first, last);
    prepare(team);
    if (streaming)
      write_any<true>(team, first, last);
    else
      write_any<false>(team, first, last);
    return unrecoverable(team);
  }

  int64_t run() const {
    if (!constants.get() || !sums.get() || !maxima.get() || !running.get()) return L1BN_NO_MEMORY;
    if (sizeof(T) == 2 && bends(args.problem.activation) && !bent.get()) return L1BN_NO_MEMORY;
    int64_t bad = 0;
    auto body = [&](Team team) { __atomic_fetch_add(&bad, member(team), __ATOMIC_RELAXED); };
    parallel_run(plan.threads, body);
    return bad;
  }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
