// Backward pass, layout `rows`.
#pragma once
#include "norm/rows/forward.h"
#include "norm/single.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

template <class T>
struct RowsBackward {
  using A = Acc<T>;
  using P = Pack<A>;
  static constexpr int kConstants = 7;

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
  T* const held;  // where the first pass leaves the gradient of z for the second, or null
  const A* const mean;
  const A* const scale;
  const Curve<T> curve;
  const Single<T> single;
  const bool streaming;
  const int64_t width;
  // Per group: centre, slope, above, below, rest of the mean; and behind an activation that bends,
  // where x is there, the factor and the shift of z = (x - centre) * factor + shift.
  Buffer<P> constants;
  Buffer<Wide> sums;  // per member and group: g, g·q, positive
  Buffer<P> running;  // the same, not yet flushed
  // Behind an activation that bends, per member: a tile of the gradient of z, and one of z.
  Buffer<A> bent;

  RowsBackward(const l1bn_backward_args& a, const Plan& p)
      : args(a),
        plan(p),
        rows(a.problem.outer),
        channels(a.problem.channels),
        groups{a.problem.channels},
        grad(static_cast<const T*>(a.grad)),
        y(static_cast<const T*>(a.y)),
        x(static_cast<const T*>(a.x)),
        residual(static_cast<const T*>(backward_residual(a))),
        bits(static_cast<const uint16_t*>(a.x ? nullptr : a.bits)),
        dx(static_cast<T*>(a.dx)),
        dresidual(static_cast<T*>(a.dresidual)),
        held(held_gradient<T>(a)),
        mean(static_cast<const A*>(a.mean)),
        scale(static_cast<const A*>(a.scale)),
        curve(a.problem),
        single(a),
        streaming(p.streaming && a.problem.channels % kLanes == 0 &&
                  reinterpret_cast<uintptr_t>(a.dx) % 64 == 0 &&
                  reinterpret_cast<uintptr_t>(a.dresidual) % 64 == 0 && a.dx != a.grad &&
                  a.dresidual != a.grad),
        width(groups.count()),
        constants(kConstants * width),
        sums(size_t(p.threads) * 3 * width),
        running(size_t(p.threads) * 3 * width),
        bent(curve ? size_t(p.threads) * 2 * tile() : 0) {}

  double param(const void* vector, int64_t c, double missing) const {
    return read_param(vector, args.problem.param_dtype, c, missing);
  }

  // Elements of a tile, and what the last pack may write behind them.
  int64_t tile() const { return kTileRows * channels + kLanes; }

  // The tile's gradient of z, and z behind it where x is not there and `with_z` asks for it. The
  // gradient also goes to `to`, where that is not null.
  __attribute__((noinline)) const A* bend(const Team& team, int64_t row, int64_t stop, bool with_z,
                                          T* to) const {
    A* const g = bent.get() + int64_t(team.index) * 2 * tile();
    const int64_t from = row * channels, count = (stop - row) * channels;
    const T* const r_from = residual ? residual + from : nullptr;
    if (!x) {
      curve.unbend(grad + from, y + from, r_from, g, with_z ? g + tile() : nullptr,
                   to ? to + from : nullptr, count);
      return g;
    }
    const P* const of_group = constants.get();
    for (int64_t line = 0; line < count; line += channels)
      for (int64_t group = 0; group < width; ++group) {
        const int64_t at = line + groups.start(group);
        const P* const c = of_group + kConstants * group;
        P z = (load(x + from + at) - c[0]) * c[5] + c[6];
        if (r_from) z += load(r_from + at);
        z.store(g + at);
      }
    curve.gradient(grad + from, g, to ? to + from : nullptr, streaming, count);
    return g;
  }

  // kInput: x is there. kActive: there is an activation that clips, so g is masked by y.
  template <bool kInput, bool kActive, bool kResidual>
  void accumulate(const Team& team, int64_t first, int64_t last) const {
    Wide* const out = sums.get() + int64_t(team.index) * 3 * width;
    for (int64_t i = 0; i < 3 * width; ++i) out[i].clear();
    A low_value, high_value;
    gradient_range(args.problem.activation, &low_value, &high_value);
    const P low = P::all(low_value), high = P::all(high_value);
    const P one = P::all(1), zero = P::all(0);
    const A* bent_g = nullptr;
    const T* const g_from = grad;
    const T* const y_from = y;
    const T* const x_from = x;
    const T* const r_from = residual;
    const uint16_t* const units_from = bits;
    const P* const of_group = constants.get();
    const Groups columns = groups;
    const int64_t count = width;
    auto add = [&](int64_t at, const P* c, int64_t unit, P* sum) L1BN_INLINED {
      P g = !kActive && curve ? P::load(bent_g + at) : load(g_from + at), q = zero;
      if constexpr (kActive) {
        const P out_value = load(y_from + at);
        g = between(out_value, low, high, g);
        if constexpr (!kInput) q = out_value - c[0];
        if constexpr (kResidual) q = q - load(r_from + at);
      } else if constexpr (!kInput) {
        if (curve)
          q = P::load(bent_g + tile() + at) - c[0];
        else if (y_from)
          q = load(y_from + at) - c[0];
      }
      unsigned bit = units_from ? units_from[unit] : 0;
      if constexpr (kInput) {
        q = load(x_from + at) - c[0];
        bit = at_least_bits(q, c[4]);
      }
      sum[0] += g;
      sum[1] += g * q;
      sum[2] += choose(bit, one, zero);
    };
    // The usual case: from y and bits, with an activation.
    if constexpr (kActive && !kInput) {
      const bool done = if_narrow<T, 8>(channels, [&](auto narrow) L1BN_INLINED {
        for_tiles(first, last, false, [&](int64_t row, int64_t stop) L1BN_INLINED {
          P sum[narrow.packs][3];
          for (auto& of : sum) of[0] = of[1] = of[2] = zero;
          narrow.walk(row, stop, [&](int j, int g, int64_t at) L1BN_INLINED {
            add(at, of_group + kConstants * g, at / kLanes, sum[j]);
          });
          for (int j = 0; j < narrow.packs; ++j)
            for (int kind = 0; kind < 3; ++kind)
              out[kind * count + j % narrow.groups].add(sum[j][kind]);
        });
      });
      if (done) return;
    }
    P* const sum = running.get() + int64_t(team.index) * 3 * width;
    for (int64_t i = 0; i < 3 * count; ++i) sum[i] = zero;
    for_tiles(first, last, false, [&](int64_t row, int64_t stop) L1BN_INLINED {
      if (!kActive && curve) bent_g = bend(team, row, stop, true, held) - row * columns.channels;
      for (; row < stop; ++row)
        for (int64_t g = 0; g < count; ++g)
          add(row * columns.channels + columns.start(g), of_group + kConstants * g, row * count + g,
              sum + 3 * g);
      for (int64_t g = 0; g < count; ++g)
        for (int kind = 0; kind < 3; ++kind) {
          out[kind * count + g].add(sum[3 * g + kind]);
          sum[3 * g + kind] = zero;
        }
    });
    if (held && streaming) stream_fence();
  }

  template <bool kInput, bool kActive, bool kStream>
  void write(const Team& team, int64_t first, int64_t last) const {
    A low_value, high_value;
    gradient_range(args.problem.activation, &low_value, &high_value);
    const P low = P::all(low_value), high = P::all(high_value);
    const A* bent_g = nullptr;
    const T* const g_from = held ? held : grad;
    const T* const y_from = y;
    const T* const x_from = x;
    T* const to = dx;
    T* const to_r = held ? nullptr : dresidual;  // which is `held` then
    const uint16_t* const units_from = bits;
    const P* const of_group = constants.get();
    const Groups columns = groups;
    const int64_t count = width;
    const int64_t whole = channels / kLanes;
    const bool bending = !kActive && curve && !held;
    // What is repeated was written already; behind what bends it comes out the same again.
    const bool repeats = whole < count && dx == g_from && !bending;
    const unsigned last_fresh = 0xffffu << groups.fresh(count - 1);
    auto one = [&](int64_t at, const P* c, int64_t unit, auto tail) L1BN_INLINED {
      const P from_memory = bending ? P::load(bent_g + at) : load(g_from + at);
      P g = from_memory;
      if constexpr (kActive) g = between(load(y_from + at), low, high, g);
      if (to_r) put<kStream>(to_r + at, g);
      unsigned bit = units_from ? units_from[unit] : 0;
      if constexpr (kInput) bit = at_least_bits(load(x_from + at) - c[0], c[4]);
      if (!to) return;
      P result = g * c[1] + choose(bit, c[2], c[3]);
      if (tail.value && repeats) result = choose(last_fresh, result, from_memory);
      put<kStream>(to + at, result);
    };
    for_tiles(first, last, true, [&](int64_t row, int64_t stop) L1BN_INLINED {
      if constexpr (kActive && !kInput) {
        const bool done = if_narrow<T, 8>(channels, [&](auto narrow) L1BN_INLINED {
          constexpr int G = decltype(narrow)::groups;
          P c[G][kConstants];
          for (int g = 0; g < G; ++g)
            for (int k = 1; k < 4; ++k) c[g][k] = of_group[kConstants * g + k];
          narrow.walk(row, stop, [&](int, int g, int64_t at) L1BN_INLINED {
            one(at, c[g], at / kLanes, std::false_type{});
          });
        });
        if (done) return;
      }
      if (bending) bent_g = bend(team, row, stop, false, nullptr) - row * columns.channels;
      for (; row < stop; ++row) {
        const int64_t at = row * columns.channels, unit = row * count;
        L1BN_UNROLL_SOME
        for (int64_t g = 0; g < whole; ++g)
          one(at + g * kLanes, of_group + kConstants * g, unit + g, std::false_type{});
        for (int64_t g = whole; g < count; ++g)
          one(at + columns.start(g), of_group + kConstants * g, unit + g, std::true_type{});
      }
    });
    if (kStream) stream_fence();
  }

  void accumulate_any(const Team& team, int64_t first, int64_t last) const {
    const bool active = clips(args.problem.activation);
    if (x)
      active ? accumulate<true, true, false>(team, first, last)
             : accumulate<true, false, false>(team, first, last);
    else if (active)
      residual ? accumulate<false, true, true>(team, first, last)
               : accumulate<false, true, false>(team, first, last);
    else
      accumulate<false, false, false>(team, first, last);
  }

  template <bool kStream>
  void write_any(const Team& team, int64_t first, int64_t last) const {
    const bool active = clips(args.problem.activation);
    if (x)
      active ? write<true, true, kStream>(team, first, last)
             : write<true, false, kStream>(team, first, last);
    else
      active ? write<false, true, kStream>(team, first, last)
             : write<false, false, kStream>(team, first, last);
  }

  // What is subtracted before the product with g: µ from x, β from y.
  void centres(const Team& team) const {
    for (int64_t g = team.index; g < width; g += team.size) {
      A centre[kLanes] = {};
      for (int64_t j = 0; j < kLanes; ++j) {
        const int64_t c = groups.start(g) + j;
        centre[j] = x ? mean[c] : A(param(args.bias, c, 0));
      }
      constants.get()[kConstants * g] = P::load(centre);
      constants.get()[kConstants * g + 4] = load(mean + channels + groups.start(g));
      if (curve && x) affine_of(g);
    }
    team.wait();
  }

  void affine_of(int64_t g) const {
    A factor[kLanes] = {}, shift[kLanes] = {};
    for (int64_t j = 0; j < kLanes; ++j) {
      const int64_t c = groups.start(g) + j;
      const double gamma = param(args.weight, c, 1);
      factor[j] = A(gamma / double(scale[c]));
      shift[j] = shift_of(args, c, gamma, mean[channels + c], scale[c]);
    }
    constants.get()[kConstants * g + 5] = P::load(factor);
    constants.get()[kConstants * g + 6] = P::load(shift);
  }

  void lanes_total(const Team& team, int kind, int64_t group, double* lanes) const {
    Pack<double> sum = Pack<double>::all(0);
    for (int member = 0; member < team.size; ++member)
      sum += sums.get()[(member * 3 + kind) * width + group].lanes;
    sum.store(lanes);
  }

  void finish(const Team& team, bool summed) const {
    team.wait();
    for (int64_t g = team.index; g < width; g += team.size) {
      double grad_sum[kLanes] = {}, product[kLanes] = {}, positive[kLanes] = {};
      if (summed) {
        lanes_total(team, 0, g, grad_sum);
        lanes_total(team, 1, g, product);
        lanes_total(team, 2, g, positive);
      }
      A slope[kLanes] = {}, above[kLanes] = {}, below[kLanes] = {};
      const int64_t start = groups.start(g), fresh = groups.fresh(g);
      for (int64_t j = 0; j < kLanes; ++j) {
        const int64_t c = start + j;
        const double gamma = param(args.weight, c, 1), sigma = double(scale[c]);
        if (x) product[j] -= double(mean[channels + c]) * grad_sum[j];
        single.mend(c, held, &grad_sum[j], &product[j]);
        const double grad_weight = grad_weight_of(product[j], x ? sigma : gamma, sigma);
        const Slope<A> s = slope_of<A>(gamma, sigma, double(rows), grad_sum[j], grad_weight,
                                       positive[j], args.problem.eps, args.frozen);
        slope[j] = s.slope;
        above[j] = s.above;
        below[j] = s.below;
        if (j < fresh) continue;
        if (args.dweight) static_cast<A*>(args.dweight)[c] = A(grad_weight);
        if (args.dbias) static_cast<A*>(args.dbias)[c] = A(grad_sum[j]);
      }
      P* to = constants.get() + kConstants * g;
      to[1] = P::load(slope);
      to[2] = P::load(above);
      to[3] = P::load(below);
    }
    team.wait();
  }

  void member(const Team& team) const {
    const int64_t first = rows * team.index / team.size, last = rows * (team.index + 1) / team.size;
    const bool summed = has_sums(args);
    centres(team);
    if (summed) accumulate_any(team, first, last);
    finish(team, summed);
    if (!dx && (!dresidual || held)) return;
    if (streaming && dx != held)  // what is held has just been read
      write_any<true>(team, first, last);
    else
      write_any<false>(team, first, last);
  }

  int64_t run() const {
    if (!constants.get() || !sums.get() || !running.get()) return L1BN_NO_MEMORY;
    if (curve && !bent.get()) return L1BN_NO_MEMORY;
    auto body = [&](Team team) { member(team); };
    parallel_run(plan.threads, body);
    return 0;
  }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
