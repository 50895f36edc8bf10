// Backward pass, layout `planes`: one pass for the sums of a channel, one for dx.
#pragma once
#include "norm/curve.h"
#include "norm/planes/bf16_dot.h"
#include "norm/planes/sharing.h"
#include "norm/single.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

template <class T>
struct PlanesBackward {
  using A = Acc<T>;
  using P = Pack<A>;

  struct Line {
    A centre, rest;   // subtracted before the product with g: the mean from x, beta from y
    A factor, shift;  // z = (x - centre) * factor + shift, where x is there
    Slope<A> slope;
  };
  enum Kind { kGrad, kProduct, kKinds };  // Σ g, and Σ g·(x − µ) or Σ g·(y − β − residual)

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
  T* const held;  // where the first pass leaves the gradient of z for the second, or null
  const A* const mean;
  const A* const scale;
  const int64_t plane_units;
  const Curve<T> curve;
  const Single<T> single;
  const bool active, summed;  // active: the activation clips
  A low, high;
  Buffer<Line> lines;
  MemberSums<A> sums;
  Buffer<int64_t> positive;  // elements with x >= µ, per member and channel of a batch

  PlanesBackward(const l1bn_backward_args& a, const Plan& p)
      : args(a),
        plan(p),
        outer(a.problem.outer),
        channels(a.problem.channels),
        inner(a.problem.inner),
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
        plane_units((inner + kLanes - 1) / kLanes),
        curve(a.problem),
        single(a),
        active(clips(a.problem.activation)),
        summed(has_sums(a)),
        lines(channels),
        sums(p, summed ? kKinds : 0),
        positive(summed ? size_t(p.threads) * p.batch : 0) {
    gradient_range(a.problem.activation, &low, &high);
  }

  int64_t at(int64_t plane, int64_t channel) const { return (plane * channels + channel) * inner; }
  double param(const void* vector, int64_t c, double missing) const {
    return read_param(vector, args.problem.param_dtype, c, missing);
  }
  // Where the activation ends to pass gradients, as bfloat16: 6, or the number after infinity.
  uint16_t top() const { return args.problem.activation == L1BN_RELU6 ? 0x40c0 : 0x7f81; }
  int64_t* positives(const Batch& batch, int member) const {
    return positive.get() + (batch.area + member) * plan.batch;
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
    if (rest) total += __builtin_popcount(unsigned(units[whole]) >> (kLanes - rest));
    return total;
  }

  // A block behind an activation that bends: the gradient of z and, where x is not there, z.
  struct Bent {
    alignas(64) A g[kLongestBlock];
    alignas(64) A z[kLongestBlock];
  };
  // With `sums`, in the first pass, the gradient goes to `held` too.
  __attribute__((noinline)) void bend(const Line& line, int64_t from, int64_t block, bool sums,
                                      Bent& to) const {
    const T* const r_from = residual ? residual + from : nullptr;
    T* const held_to = sums && held ? held + from : nullptr;
    if (!x)
      return curve.unbend(grad + from, y + from, r_from, to.g, sums ? to.z : nullptr, held_to,
                          block);
    const P centre = P::all(line.centre), factor = P::all(line.factor), shift = P::all(line.shift);
    for_packs(block, [&](auto how, int64_t i) L1BN_INLINED {
      P z = (how.get(x + from + i) - centre) * factor + shift;
      if (r_from) z += how.get(r_from + i);
      z.store(to.g + i);
    });
    curve.gradient(grad + from, to.g, held_to, false, block);
  }

  // Of such a block Σ g, Σ g·(x − µ) or Σ g·(z − β), and the elements with x >= µ.
  template <bool kInput>
  void sum_bent(const Bent& bent, const T* x_from, const P& centre, const P& rest, int64_t block,
                Two<A>& g_sum, Two<A>& q_sum, int64_t& ones) const {
    for_chunks(block, [&](auto how, int64_t pos, int64_t, auto k) L1BN_INLINED {
      const P g = how.keep(how.get(bent.g + pos));
      P q;
      if constexpr (kInput) {
        q = how.get(x_from + pos) - centre;
        ones += __builtin_popcount(at_least_bits(q, rest) & how.mask);
      } else {
        q = how.get(bent.z + pos) - centre;
      }
      g_sum.part[k.value] += g;
      q_sum.part[k.value] += how.keep(g * q);
    });
  }

  // kInput: x is there. kActive: there is an activation that clips, so g is masked by y.
  template <bool kInput, bool kActive, bool kResidual>
  void accumulate(const Batch& batch) const {
    const Sums<A> grads = sums.of(batch, kGrad), products = sums.of(batch, kProduct);
    int64_t* const above = positives(batch, batch.team.index);
    grads.clear();
    products.clear();
    memset(above, 0, batch.count * sizeof *above);
    const P low_pack = P::all(low), high_pack = P::all(high);
    const bool direct = inner >= kBlock;
    Bent bent;
    Countdown flush(planes_per_flush(inner));
    auto flush_long = [&](int64_t i) L1BN_INLINED {
      if (!direct) return;
      grads.flush(i);
      products.flush(i);
    };
    batch.share(outer, inner).walk(false, [&](int64_t plane, int64_t offset, int64_t length) {
      for (int64_t i = 0; i < batch.count; ++i) {
        const int64_t c = batch.first + i, from = at(plane, c) + offset;
        const P centre = P::all(lines.get()[c].centre), rest = P::all(lines.get()[c].rest);
        int64_t ones = 0;
        for_blocks(length, [&](int64_t start, int64_t block) {
          const T* g_from = grad + from + start;
          const T* y_from = y && (kActive || !kInput) ? y + from + start : nullptr;
          const T* x_from = kInput ? x + from + start : nullptr;
          const T* r_from = kResidual ? residual + from + start : nullptr;
          if constexpr (kDots<T> && kActive && !kInput) {
            const auto found = products_of(g_from, y_from, r_from, block, top());
            grads.recent[i] += found.grad;
            products.recent[i] += found.product - centre * found.grad;
            flush_long(i);
            return;
          }
          Two<A> g_sum, q_sum;
          if (!kActive && curve) {
            bend(lines.get()[c], from + start, block, true, bent);
            sum_bent<kInput>(bent, x_from, centre, rest, block, g_sum, q_sum, ones);
            grads.recent[i] += g_sum.total();
            products.recent[i] += q_sum.total();
            flush_long(i);
            return;
          }
          for_any_order(block, [&](auto how, int64_t pos, int64_t, auto k) L1BN_INLINED {
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
              ones += __builtin_popcount(at_least_bits(q, rest) & how.mask);
            }
            g = how.keep(g);
            g_sum.part[k.value] += g;
            q_sum.part[k.value] += how.keep(g * q);
          });
          grads.recent[i] += g_sum.total();
          products.recent[i] += q_sum.total();
          flush_long(i);
        });
        if (!kInput && bits)
          ones = count_bits(bits + (plane * channels + c) * plane_units + offset / kLanes, length);
        above[i] += ones;
      }
      if (!flush.due()) return;
      grads.flush();
      products.flush();
    });
    grads.flush();
    products.flush();
  }

  template <bool kInput, bool kActive>
  void write(const Batch& batch) const {
    const T* const gradient = held ? held : grad;
    T* const residual_to = held ? nullptr : dresidual;  // which is `held` then
    const bool in_place = dx == gradient, bends = !kActive && curve && !held;
    Bent bent;
    Stage<T> stage_x(plan.streaming && !in_place);
    Stage<T> stage_r(plan.streaming && residual_to && residual_to != grad);
    const P low_pack = P::all(low), high_pack = P::all(high);
    batch.share(outer, inner).walk(true, [&](int64_t plane, int64_t offset, int64_t length) {
      for (int64_t i = 0; i < batch.count; ++i) {
        const int64_t c = batch.first + i, from = at(plane, c) + offset;
        const Line& line = lines.get()[c];
        const P slope = P::all(line.slope.slope), above = P::all(line.slope.above);
        const P below = P::all(line.slope.below);
        const P centre = P::all(line.centre), rest = P::all(line.rest);
        for_blocks(length, [&](int64_t start, int64_t block) {
          const T* g_from = gradient + from + start;
          const T* y_from = kActive ? y + from + start : nullptr;
          const T* x_from = kInput ? x + from + start : nullptr;
          if (bends) bend(line, from + start, block, false, bent);
          const uint16_t* b =
              bits ? bits + (plane * channels + c) * plane_units + (offset + start) / kLanes
                   : nullptr;
          T* to = dx ? stage_x.begin(dx + from + start, block) : nullptr;
          T* to_r = residual_to ? stage_r.begin(residual_to + from + start, block) : nullptr;
          if constexpr (kDots<T> && kActive && !kInput) {
            if (b) return Slopes<T>{line.slope, top()}.write(g_from, y_from, b, to, to_r, block);
          }
          for_chunks(block, [&](auto how, int64_t pos, int64_t chunk, auto) L1BN_INLINED {
            const P from_memory = bends ? how.get(bent.g + pos) : how.get(g_from + pos);
            P g = from_memory;
            if constexpr (kActive) g = between(how.get(y_from + pos), low_pack, high_pack, g);
            if (to_r) how.put(to_r + pos, g);
            if (!to) return;
            unsigned bit;
            if constexpr (kInput)
              bit = at_least_bits(how.get(x_from + pos) - centre, rest);
            else
              bit = b ? b[chunk] : 0;
            const P result = g * slope + choose(bit, above, below);
            how.put(to + pos, in_place && !bends ? how.fresh(result, from_memory) : result);
          });
        });
      }
    });
  }

  void accumulate_any(const Batch& batch) const {
    if (x)
      active ? accumulate<true, true, false>(batch) : accumulate<true, false, false>(batch);
    else if (active)
      residual ? accumulate<false, true, true>(batch) : accumulate<false, true, false>(batch);
    else
      accumulate<false, false, false>(batch);
  }

  void write_any(const Batch& batch) const {
    if (!dx && (!dresidual || held)) return;
    if (x)
      active ? write<true, true>(batch) : write<true, false>(batch);
    else
      active ? write<false, true>(batch) : write<false, false>(batch);
  }

  // Gradients of the parameters, and the coefficients of dx.
  void finish(const Batch& batch) const {
    const double elements = double(outer) * double(inner);
    for (int64_t i = batch.begin; i < batch.end; ++i) {
      const int64_t c = batch.first + i;
      double grad_sum = 0, product = 0, above = 0;
      if (summed) {
        grad_sum = sums.total(batch, kGrad, i);
        product = sums.total(batch, kProduct, i);
        for (int member = 0; member < batch.team.size; ++member)
          above += double(positives(batch, member)[i]);
      }
      const double gamma = param(args.weight, c, 1), sigma = double(scale[c]);
      if (x) product -= double(mean[channels + c]) * grad_sum;
      single.mend(c, held, &grad_sum, &product);
      const double grad_weight = grad_weight_of(product, x ? sigma : gamma, sigma);
      lines.get()[c].slope = slope_of<A>(gamma, sigma, elements, grad_sum, grad_weight, above,
                                         args.problem.eps, args.frozen);
      if (args.dweight) static_cast<A*>(args.dweight)[c] = A(grad_weight);
      if (args.dbias) static_cast<A*>(args.dbias)[c] = A(grad_sum);
    }
  }

  void one(const Batch& batch) const {
    for (int64_t i = batch.begin; i < batch.end; ++i) {
      const int64_t c = batch.first + i;
      lines.get()[c].centre = x ? mean[c] : A(param(args.bias, c, 0));
      lines.get()[c].rest = mean[channels + c];
      if (!curve || !x) continue;
      const double gamma = param(args.weight, c, 1);
      lines.get()[c].factor = A(gamma / double(scale[c]));
      lines.get()[c].shift = shift_of(args, c, gamma, mean[channels + c], scale[c]);
    }
    batch.team.wait();
    if (summed) accumulate_any(batch);
    batch.team.wait();
    finish(batch);
    batch.team.wait();
    write_any(batch);
  }

  int64_t run() const {
    if (!lines.get() || !sums.allocated() || (summed && !positive.get())) return L1BN_NO_MEMORY;
    auto body = [&](Team team) {
      for_batches(plan, channels, team, [&](const Batch& batch) { one(batch); });
    };
    parallel_run(plan.threads, body);
    return 0;
  }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
