// SGD with momentum and weight decay on 16-bit weights, in 64-bit units of 2**-32.
#pragma once
#include "int8_norm/scaling.h"

namespace l1bn {
namespace int8_norm {
namespace L1BN_ISA {
namespace {

constexpr int64_t kUnitBits = 32;
constexpr int64_t kRateBits = 16;
constexpr int64_t kLimitBits = 40;
constexpr int64_t kLimit = int64_t(1) << kLimitBits;

// value * 2**exponent in units, to nearest and saturated.
struct Units {
  int64_t bound, factor, half, down;

  static Units of(int64_t exponent) {
    const int64_t shift = exponent + kUnitBits;
    if (shift < 0) {
      const int64_t down = least(-shift, 62);
      return {INT64_MAX, 1, int64_t(1) << (down - 1), down};
    }
    const int64_t up = least(shift, kLimitBits);
    return {kLimit >> up, int64_t(1) << up, 0, 0};
  }
  template <class V>
  L1BN_INLINE V take(V value) const {
    const V scaled = clip(value, wide<V>(-bound), wide<V>(bound)) * factor;
    return clip((scaled + half) >> down, wide<V>(-kLimit), wide<V>(kLimit));
  }
  template <class V>
  static L1BN_INLINE V wide(int64_t value) {
    return V{} + value;
  }
};

// value / 2**shift, rounded.
struct Division {
  int64_t shift, half;
  bool stochastic;

  static Division of(int64_t shift, bool stochastic) {
    return {shift, shift ? int64_t(1) << (shift - 1) : 0, stochastic};
  }
  template <class V>
  L1BN_INLINE V take(V value, FullNoise<V>& noise) const {
    if (!stochastic || !shift) return (value + half) >> shift;
    const V bits = noise.next();
    return (value + (shift > 32 ? bits << (shift - 32) : bits >> (32 - shift))) >> shift;
  }
};

template <class G>
struct Sgd {
  const l1bn_int8_sgd_args& a;
  const G* gradient;
  Units of_gradient, of_decay, of_momentum;
  Division of_weight;
  int64_t high;
  uint64_t start_weight, start_momentum;

  explicit Sgd(const l1bn_int8_sgd_args& args)
      : a(args),
        gradient(static_cast<const G*>(args.gradient)),
        of_gradient(Units::of(args.gradient_exponent)),
        of_decay(Units::of(args.exponent - 2 * kRateBits)),
        of_momentum(Units::of(args.momentum_exponent)),
        of_weight(
            Division::of(kUnitBits + kRateBits + args.exponent, args.rounding.stochastic != 0)),
        high((int64_t(1) << (args.bits - 1)) - 1),
        start_weight(noise_start(args.rounding)),
        start_momentum(noise_start({1, args.rounding.seed, args.rounding.stream + 1})) {}

  template <class V>
  L1BN_INLINE V descent(int64_t i) const {
    return of_gradient.take(load<V>(gradient + i)) + of_decay.take(load<V>(a.weight + i) * a.decay);
  }
  template <class V>
  L1BN_INLINE V damped(V v, V d) const {
    const V sum = ((v * a.momentum_factor + (1 << (kRateBits - 1))) >> kRateBits) + d;
    return clip(sum, V{} - kLimit, V{} + kLimit);
  }

  // Largest magnitude of the new momentum.
  template <class V>
  L1BN_INLINE int64_t peak(int64_t begin, int64_t end) const {
    V top = {};
    for (int64_t i = begin; i < end; i += kLanes<V>) {
      const V v = damped(of_momentum.take(load<V>(a.momentum + i)), descent<V>(i));
      top = larger(top, larger(v, -v));
    }
    int64_t each[kLanes<V>], out = 0;
    store(each, top);
    for (int l = 0; l < kLanes<V>; ++l) out = most(out, each[l]);
    return out;
  }

  template <class V>
  L1BN_INLINE void step(int64_t begin, int64_t end, const Division& of_velocity) const {
    FullNoise<V> weight_noise(start_weight, begin), momentum_noise(start_momentum, begin);
    const V limit = V{} + high;
    for (int64_t i = begin; i < end; i += kLanes<V>) {
      const V d = descent<V>(i);
      const V v = damped(of_momentum.take(load<V>(a.momentum + i)), d);
      const V move = a.nesterov ? damped(v, d) : v;
      const V w = load<V>(a.weight + i) - of_weight.take(move * a.rate, weight_noise);
      store(a.weight + i, clip(w, -limit, limit));
      store(a.momentum + i, clip(of_velocity.take(v, momentum_noise), -limit, limit));
    }
  }
};

template <class G>
int64_t sgd_as(const l1bn_int8_sgd_args& a) {
  const Sgd<G> kernel(a);
  const int64_t vectors = a.count / kLanes<I64>, whole = vectors * kLanes<I64>;
  const int threads = useful_threads(a.count, a.threads);
  Scratch scratch(Scratch::bytes<int64_t>(threads));
  if (scratch.failed()) return L1BN_NO_MEMORY;
  int64_t* peaks = scratch.take<int64_t>(threads);
  int64_t shift = 0;
  auto body = [&](Team team) {
    const Span span = share(vectors, team);
    const int64_t begin = span.begin * kLanes<I64>, end = span.end * kLanes<I64>;
    const bool last = team.index == team.size - 1;
    peaks[team.index] = kernel.template peak<I64>(begin, end);
    if (last)
      peaks[team.index] = most(peaks[team.index], kernel.template peak<int64_t>(whole, a.count));
    team.wait();
    int64_t top = 0;
    for (int i = 0; i < team.size; ++i) top = most(top, peaks[i]);
    const int64_t mine = peak_shift(top, a.bits);
    if (team.index == 0) shift = mine;
    const Division division = Division::of(mine, a.rounding.stochastic != 0);
    kernel.template step<I64>(begin, end, division);
    if (last) kernel.template step<int64_t>(whole, a.count, division);
  };
  parallel_run(threads, body);
  return shift - kUnitBits;
}

int64_t sgd(const l1bn_int8_sgd_args& a) {
  switch (a.gradient_type) {
    case L1BN_INT8_GRADIENT_8:
      return sgd_as<int8_t>(a);
    case L1BN_INT8_GRADIENT_32:
      return sgd_as<int32_t>(a);
    default:
      return sgd_as<int64_t>(a);
  }
}

}  // namespace
}  // namespace L1BN_ISA
}  // namespace int8_norm
}  // namespace l1bn
