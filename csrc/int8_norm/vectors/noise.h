// Random bits of stochastic rounding: l1bn.fixed_point.random_bits, the finalizer of SplitMix64
// (Steele et al., OOPSLA 2014) over a Weyl sequence that counts places in memory.
#pragma once
#include "int8_norm/interface.h"
#include "int8_norm/vectors/simd.h"

namespace l1bn {
namespace int8_norm {
namespace L1BN_ISA {
namespace {

constexpr uint64_t kWeyl = 0x9E3779B97F4A7C15u;

template <class U>
L1BN_INLINE U mix(U z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  return (z ^ (z >> 27)) * 0x94D049BB133111EBu;
}

// Where the sequence of a tensor begins.
L1BN_INLINE uint64_t noise_start(const l1bn_int8_rounding& rounding) {
  const uint64_t z = mix(rounding.seed * kWeyl + rounding.stream * 0xD1B54A32D192ED03u);
  return z ^ (z >> 31);
}

// The upper 31 of each element's 32 random bits, row after row. The last exclusive-or of the
// finalizer changes only the lowest of the 32 and is left out.
template <class V>
struct Noise {
  U64 even = {}, odd = {}, step;
  L1BN_INLINE Noise(uint64_t start, int64_t place, int64_t stride) {
    for (int i = 0; i < kLanes<I64>; ++i) {
      even[i] = start + kWeyl * static_cast<uint64_t>(place + 2 * i);
      odd[i] = even[i] + kWeyl;
    }
    step = U64{} + kWeyl * static_cast<uint64_t>(stride);
  }
  // Uniform in [0, 2**(32 - down)), down from 1 to 31.
  L1BN_INLINE V next(V down) {
    const U64 high = U64{} + 0xFFFFFFFF00000000u;
    const U32 bits = U32((mix(even) >> 32) | (mix(odd) & high));
    even += step;
    odd += step;
    return V(bits >> U32(down));
  }
};
template <>
struct Noise<int32_t> {
  uint64_t state, step;
  L1BN_INLINE Noise(uint64_t start, int64_t place, int64_t stride)
      : state(start + kWeyl * static_cast<uint64_t>(place)),
        step(kWeyl * static_cast<uint64_t>(stride)) {}
  L1BN_INLINE int32_t next(int32_t down) {
    const uint32_t bits = static_cast<uint32_t>(mix(state) >> 32);
    state += step;
    return static_cast<int32_t>(bits >> down);
  }
};

// All 32 bits of elements `place` and following, one per 64-bit lane.
template <class V>
struct FullNoise {
  U64 state = {};
  L1BN_INLINE FullNoise(uint64_t start, int64_t place) {
    for (int i = 0; i < kLanes<I64>; ++i)
      state[i] = start + kWeyl * static_cast<uint64_t>(place + i);
  }
  L1BN_INLINE V next() {
    const U64 z = mix(state);
    state += U64{} + kWeyl * kLanes<I64>;
    return V((z ^ (z >> 31)) >> 32);
  }
};
template <>
struct FullNoise<int64_t> {
  uint64_t state;
  L1BN_INLINE FullNoise(uint64_t start, int64_t place)
      : state(start + kWeyl * static_cast<uint64_t>(place)) {}
  L1BN_INLINE int64_t next() {
    const uint64_t z = mix(state);
    state += kWeyl;
    return static_cast<int64_t>((z ^ (z >> 31)) >> 32);
  }
};

// value / 2**shift, to nearest with ties up; no intermediate leaves 32 bits. `below` is
// max(shift - 1, 0) and `one` is 1 where shift > 0, else 0.
template <class V>
L1BN_INLINE V round_nearest(V value, V shift, V below, V one) {
  return (value >> shift) + ((value >> below) & one);
}

// (value + noise) / 2**shift, rounded down, for shift = below + 1; the sum may leave 32 bits.
template <class V>
L1BN_INLINE V round_noise(V value, V noise, V below) {
  return ((value & noise) + ((value ^ noise) >> 1)) >> below;
}

}  // namespace
}  // namespace L1BN_ISA
}  // namespace int8_norm
}  // namespace l1bn
