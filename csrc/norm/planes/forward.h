// Forward pass, layout `planes`: three passes over a batch of channels, in the order of memory.
#pragma once
#include "common/plan.h"
#include "norm/channel.h"
#include "norm/curve.h"
#include "norm/planes/bf16_dot.h"
#include "norm/planes/sharing.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

template <class T>
struct PlanesForward {
  using A = Acc<T>;
  using P = Pack<A>;

  struct Line {
    A centre, rest;  // the mean in two parts
    A slope, shift;  // y = (x - centre) * slope + shift
  };

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
  Buffer<Line> lines;
  MemberSums<A> sums;
  Buffer<A> maxima;          // of the residual, per member and channel of a batch
  Buffer<Cut> cuts;          // per channel; these two only for sums by dot products
  Buffer<int64_t> positive;  // elements with x >= µ, per member and channel of a batch

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
        lines(channels),
        sums(p, is_frozen ? 0 : 1),
        maxima(a.residual ? size_t(p.threads) * p.batch : 0),
        cuts(kDots<T> ? channels : 0),
        positive(kDots<T> ? size_t(p.threads) * p.batch : 0) {}

  int64_t at(int64_t plane, int64_t channel) const { return (plane * channels + channel) * inner; }

  bool floored(A s) const { return !frozen && s <= scale_floor<A>(args.problem.eps); }

  int64_t* positives(const Batch& batch, int member) const {
    return positive.get() + (batch.area + member) * plan.batch;
  }

  uint16_t* units_at(int64_t plane, int64_t channel, int64_t offset) const {
    return bits ? bits + (plane * channels + channel) * plane_units + offset / kLanes : nullptr;
  }

  // Sums span(i, plane, offset, elements, count) over the blocks of the batch's i-th channel.
  template <class Span>
  void accumulate(const Batch& batch, bool backwards, Span&& span) const {
    const Sums<A> out = sums.of(batch, 0);
    out.clear();
    const bool direct = inner >= kBlock;
    Countdown flush(planes_per_flush(inner));
    batch.share(outer, inner).walk(backwards, [&](int64_t plane, int64_t offset, int64_t length) {
      const T* from = x + at(plane, batch.first) + offset;
      for (int64_t i = 0; i < batch.count; ++i, from += inner) {
        for_blocks(length, [&](int64_t start, int64_t block) {
          out.recent[i] += span(i, plane, offset + start, from + start, block);
          if (direct) out.flush(i);
        });
      }
      if (flush.due()) out.flush();
    });
    out.flush();
  }

  // Σ term(x - centre, rest).
  template <class Term>
  void accumulate_terms(const Batch& batch, bool backwards, Term&& term) const {
    const Line* const line = lines.get() + batch.first;
    accumulate(batch, backwards,
               [&](int64_t i, int64_t, int64_t, const T* p, int64_t count) L1BN_INLINED {
                 const P centre = P::all(line[i].centre), rest = P::all(line[i].rest);
                 Two<A> sum;
                 for_any_order(count, [&](auto how, int64_t pos, int64_t, auto k) L1BN_INLINED {
                   sum.part[k.value] += how.keep(term(how.get(p + pos) - centre, rest));
                 });
                 return sum.total();
               });
  }

  // Σ (x - centre).
  void accumulate_differences(const Batch& batch) const {
    if constexpr (kDots<T>)
      accumulate(batch, false,
                 [&](int64_t i, int64_t, int64_t, const T* p, int64_t count) L1BN_INLINED {
                   return sum_around(p, count, cuts.get()[batch.first + i].pivot);
                 });
    else
      accumulate_terms(batch, false, [](const P& d, const P&) L1BN_INLINED { return d; });
  }

  // Σ |x - µ|, or with dot products what absolute_sum() needs for it, and the bits.
  void accumulate_deviations(const Batch& batch) const {
    if constexpr (kDots<T>) {
      int64_t* const above = positives(batch, batch.team.index);
      memset(above, 0, batch.count * sizeof *above);
      accumulate(
          batch, true,
          [&](int64_t i, int64_t plane, int64_t offset, const T* p, int64_t count) L1BN_INLINED {
            const int64_t c = batch.first + i;
            return sum_above(p, count, cuts.get()[c], units_at(plane, c, offset), above + i);
          });
    } else {
      accumulate_terms(batch, true,
                       [](const P& d, const P& rest) L1BN_INLINED { return absolute(d - rest); });
    }
  }

  // Σ |x - µ| of the batch's i-th channel.
  double absolute_sum(const Batch& batch, int64_t i) const {
    const double sum = sums.total(batch, 0, i);
    if constexpr (kDots<T>) {
      // Deviations above and below the mean add up to the same.
      const Line& line = lines.get()[batch.first + i];
      const double from_pivot = double(line.centre) + double(line.rest) -
                                bfloat16_value(cuts.get()[batch.first + i].pivot);
      double above = 0;
      for (int member = 0; member < batch.team.size; ++member)
        above += double(positives(batch, member)[i]);
      return 2 * (sum - above * from_pivot);
    }
    return sum;
  }

  void statistics(const Batch& batch) const {
    const double elements = double(outer) * double(inner);
    Line* const line = lines.get() + batch.first;
    // Around the first value: large means cost no digits.
    for (int64_t i = batch.begin; i < batch.end; ++i) {
      const T* const first = x + at(0, batch.first + i);
      line[i] = {value_of(first), 0, 0, 0};
      if constexpr (kDots<T>) cuts.get()[batch.first + i].pivot = first->bits;
    }
    batch.team.wait();
    accumulate_differences(batch);
    batch.team.wait();
    for (int64_t i = batch.begin; i < batch.end; ++i) {
      split_mean(double(line[i].centre) + sums.total(batch, 0, i) / elements, &line[i].centre,
                 &line[i].rest);
      if constexpr (kDots<T>)
        cuts.get()[batch.first + i] = cut_at(double(line[i].centre) + double(line[i].rest));
    }
    batch.team.wait();
    accumulate_deviations(batch);
    batch.team.wait();
    for (int64_t i = batch.begin; i < batch.end; ++i) {
      const int64_t c = batch.first + i;
      mean[c] = line[i].centre;
      mean[channels + c] = line[i].rest;
      scale[c] = scale_of<A>(absolute_sum(batch, i), elements, args.problem.eps);
    }
  }

  void prepare(const Batch& batch) const {
    for (int64_t i = batch.begin; i < batch.end; ++i) {
      const int64_t c = batch.first + i;
      const double gamma = read_param(args.weight, args.problem.param_dtype, c, 1);
      const A rest = mean[channels + c];
      lines.get()[c] = {mean[c], rest, A(gamma / double(scale[c])),
                        shift_of(args, c, gamma, rest, scale[c])};
    }
    batch.team.wait();
  }

  template <bool kResidual>
  void write(const Batch& batch, A* most) const {
    Stage<T> stage(plan.streaming);
    const Curve<T> curve(args.problem);
    A low_value, high_value;
    activation_range(args.problem.activation, &low_value, &high_value);
    const P low = P::all(low_value), high = P::all(high_value);
    alignas(64) A bent[sizeof(T) == 2 ? kLongestBlock : 1];
    const bool waits = sizeof(T) == 2 && curve;  // z for its activation, before it is rounded
    batch.share(outer, inner).walk(false, [&](int64_t plane, int64_t offset, int64_t length) {
      for (int64_t i = 0; i < batch.count; ++i) {
        const int64_t c = batch.first + i, from = at(plane, c) + offset;
        const Line& line = lines.get()[c];
        const P centre = P::all(line.centre), rest = P::all(line.rest);
        const P slope = P::all(line.slope), shift = P::all(line.shift);
        P top = P::all(0);
        for_blocks(length, [&](int64_t start, int64_t block) {
          const T* p = x + from + start;
          const T* r = kResidual ? residual + from + start : nullptr;
          uint16_t* b = kDots<T> ? nullptr : units_at(plane, c, offset + start);
          T* out = stage.begin(y + from + start, block);
          for_chunks(block, [&](auto how, int64_t pos, int64_t chunk, auto) L1BN_INLINED {
            const P d = how.get(p + pos) - centre;
            P z = d * slope + shift;
            if constexpr (kResidual) {
              const P added = how.get(r + pos);
              z += added;
              top = maximum(top, absolute(added));
            }
            if (sizeof(T) == 2 && waits)
              z.store(bent + pos);
            else
              how.put(out + pos, clamp(z, low, high));
            if (b) b[chunk] = uint16_t(at_least_bits(d, rest));
          });
          if constexpr (sizeof(T) == 2) {
            if (curve) curve.apply(bent, out, block);
          } else if (curve) {
            curve.apply(out, block);
          }
        });
        if constexpr (kResidual) {
          const A value = horizontal_max(top);
          most[i] = value > most[i] ? value : most[i];
        }
      }
    });
  }

  int64_t unrecoverable(const Batch& batch) const {
    if (residual) batch.team.wait();
    int64_t bad = 0;
    for (int64_t i = batch.begin; i < batch.end; ++i) {
      const int64_t c = batch.first + i;
      A top = 0;
      for (int member = 0; residual && member < batch.team.size; ++member) {
        const A value = maxima.get()[(batch.area + member) * plan.batch + i];
        top = value > top ? value : top;
      }
      const double gamma = read_param(args.weight, args.problem.param_dtype, c, 1);
      const double beta = read_param(args.bias, args.problem.param_dtype, c, 0);
      bad += !recoverable<T>(gamma, beta, double(top), args.recoverable, args.problem) ||
             floored(scale[c]);
    }
    return bad;
  }

  int64_t one(const Batch& batch) const {
    if (!frozen) statistics(batch);
    prepare(batch);
    if (residual) {
      A* most = maxima.get() + (batch.area + batch.team.index) * plan.batch;
      for (int64_t i = 0; i < batch.count; ++i) most[i] = 0;
      write<true>(batch, most);
    } else {
      write<false>(batch, nullptr);
    }
    return unrecoverable(batch);
  }

  int64_t run() const {
    if (!lines.get() || !sums.allocated() || (residual && !maxima.get())) return L1BN_NO_MEMORY;
    if (kDots<T> && (!cuts.get() || !positive.get())) return L1BN_NO_MEMORY;
    int64_t bad = 0;
    auto body = [&](Team team) {
      int64_t mine = 0;
      for_batches(plan, channels, team, [&](const Batch& batch) { mine += one(batch); });
      __atomic_fetch_add(&bad, mine, __ATOMIC_RELAXED);
    };
    parallel_run(plan.threads, body);
    return bad;
  }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
