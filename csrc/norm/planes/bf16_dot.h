// Sums over bfloat16 planes by the dot product of AVX-512 BF16: 32 elements at a time, as they are
// stored, and comparisons of their bits. A product of two bfloat16 is exact in float; the
// instruction takes what is below the smallest normal number for 0.
#pragma once
#include "norm/planes/sharing.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

// Whether these functions serve an element type.
template <class T>
constexpr bool kDots = false;

// What splits the elements of a channel at its mean, and a number close to it: sums of differences
// from that lose no digits to a large mean.
struct Cut {
  uint16_t pivot;
  uint16_t flip, limit;  // x >= mean: (x ^ flip) <= limit, as unsigned bits
};

inline double bfloat16_value(uint16_t bits) {
  const BFloat16 value = {bits};
  return double(value_of(&value));
}

// The smallest bfloat16 from `mean` on, as bits; -0 for 0.
inline uint16_t at_least(double mean) {
  const float rounded = float(mean);
  uint32_t word;
  memcpy(&word, &rounded, sizeof word);
  uint16_t bits = uint16_t(word >> 16);  // not farther from 0 than `rounded`
  if (bfloat16_value(bits) < mean) bits += bits & 0x8000 ? -1 : 1;
  if (!(bits & 0x7fff)) return 0x8000;
  return bits;
}

inline Cut cut_at(double mean) {
  BFloat16 nearest;
  store_one(&nearest, float(mean));
  const uint16_t from = at_least(mean);
  if (from & 0x8000) return {nearest.bits, 0, from};
  return {nearest.bits, 0x7fff, uint16_t(from ^ 0x7fff)};
}

// The input's gradient and, where `dresidual` is there, the residual's. Either may be null.
template <class T>
struct Slopes;

#if defined(__AVX512BF16__)
template <>
constexpr bool kDots<BFloat16> = true;

constexpr int64_t kPair = 2 * kLanes;

L1BN_INLINE __m512 dot(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, __m512bh(a), __m512bh(b));
}
L1BN_INLINE __m512i ones() { return _mm512_set1_epi16(0x3f80); }
L1BN_INLINE __m512i pair_at(const BFloat16* p) { return _mm512_loadu_si512(p); }

struct Pivot {
  __m512i each;
  __m512 twice;  // what a dot product of two lanes adds for it

  explicit L1BN_INLINE Pivot(uint16_t bits) : each(_mm512_set1_epi16(short(bits))) {
    const __m512 one = __m512(_mm512_set1_epi32(int(bits) << 16));
    twice = one + one;
  }
  // Σ (v - pivot), two lanes to one.
  L1BN_INLINE __m512 add(__m512 sum, __m512i v) const { return dot(sum, v, ones()) - twice; }
};

L1BN_INLINE Pack<float> total_of(const __m512 (&sum)[4]) {
  Pack<float> out;
  out.v[0] = FloatV((sum[0] + sum[1]) + (sum[2] + sum[3]));
  return out;
}

// Σ (x - pivot).
L1BN_INLINE Pack<float> sum_around(const BFloat16* x, int64_t n, uint16_t bits) {
  const Pivot pivot(bits);
  __m512 sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * kPair <= n; i += 4 * kPair) L1BN_UNROLL
  for (int k = 0; k < 4; ++k) sum[k] = pivot.add(sum[k], pair_at(x + i + k * kPair));
  for (; i + kPair <= n; i += kPair) sum[0] = pivot.add(sum[0], pair_at(x + i));
  if (i < n) {
    const __mmask32 rest = (1u << (n - i)) - 1;
    sum[1] = pivot.add(sum[1], _mm512_mask_loadu_epi16(pivot.each, rest, x + i));
  }
  return total_of(sum);
}

// Σ (x - pivot) over x >= mean. Counts these, and writes their bits where `units` are wanted.
L1BN_INLINE Pack<float> sum_above(const BFloat16* x, int64_t n, const Cut& cut, uint16_t* units,
                                  int64_t* count) {
  const Pivot pivot(cut.pivot);
  const __m512i flip = _mm512_set1_epi16(short(cut.flip)),
                limit = _mm512_set1_epi16(short(cut.limit));
  __m512 sum[4] = {};
  int64_t i = 0, ones_seen = 0;
  auto above = [&](__m512i v) L1BN_INLINED {
    return _mm512_cmple_epu16_mask(_mm512_xor_si512(v, flip), limit);
  };
  auto take = [&](__m512 s, __m512i v, __mmask32 mask) L1BN_INLINED {
    ones_seen += __builtin_popcount(mask);
    return pivot.add(s, _mm512_mask_mov_epi16(pivot.each, mask, v));
  };
  auto pair = [&](int k) L1BN_INLINED {
    const __m512i v = pair_at(x + i + k * kPair);
    const __mmask32 mask = above(v);
    if (units) memcpy(units + (i + k * kPair) / kLanes, &mask, sizeof mask);
    sum[k] = take(sum[k], v, mask);
  };
  for (; i + 4 * kPair <= n; i += 4 * kPair) L1BN_UNROLL
  for (int k = 0; k < 4; ++k) pair(k);
  for (; i + kPair <= n; i += kPair) pair(0);
  // What is left is one unit of sixteen, or the last sixteen, some of which were there before.
  while (i < n) {
    const int64_t rest = n - i < kLanes ? n - i : kLanes;
    const __m256i half =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i + rest - kLanes));
    const __m512i v = _mm512_castsi256_si512(half);
    const unsigned mask = above(v) & 0xffffu;
    if (units) units[i / kLanes] = uint16_t(mask);
    sum[1] = take(sum[1], v, mask & (0xffffu << (kLanes - rest)));
    i += rest;
  }
  *count += ones_seen;
  return total_of(sum);
}

struct Products {
  Pack<float> grad, product;
};

// Σ g and Σ g·(y - residual) over 0 < y < above, where an activation passes the gradient.
// A null `residual` is 0.
L1BN_INLINE Products products_of(const BFloat16* g, const BFloat16* y, const BFloat16* residual,
                                 int64_t n, uint16_t above) {
  const __m512i zero = _mm512_setzero_si512(), top = _mm512_set1_epi16(short(above));
  __m512 grad[4] = {}, product[4] = {}, less[4] = {};
  // Zero where dead in every factor: infinity times 0 would be NaN.
  auto add = [&](int k, int64_t i, __m512i value) L1BN_INLINED {
    const __mmask32 positive = _mm512_cmpgt_epi16_mask(value, zero);
    const __mmask32 alive = _mm512_mask_cmplt_epi16_mask(positive, value, top);
    const __m512i some = _mm512_maskz_loadu_epi16(alive, g + i);
    grad[k] = dot(grad[k], some, ones());
    product[k] = dot(product[k], some, _mm512_maskz_mov_epi16(alive, value));
    if (residual) less[k] = dot(less[k], some, _mm512_maskz_loadu_epi16(alive, residual + i));
  };
  int64_t i = 0;
  for (; i + 4 * kPair <= n; i += 4 * kPair) L1BN_UNROLL
  for (int k = 0; k < 4; ++k) add(k, i + k * kPair, pair_at(y + i + k * kPair));
  for (; i + kPair <= n; i += kPair) add(0, i, pair_at(y + i));
  if (i < n) add(1, i, _mm512_maskz_loadu_epi16((1u << (n - i)) - 1, y + i));
  Products out = {total_of(grad), total_of(product)};
  if (residual) out.product = out.product - total_of(less);
  return out;
}

template <>
struct Slopes<BFloat16> {
  Slope<float> line;
  uint16_t top;  // the activation's, as bits

  L1BN_INLINE void write(const BFloat16* g, const BFloat16* y, const uint16_t* units, BFloat16* dx,
                         BFloat16* dresidual, int64_t n) const {
    int64_t i = 0;
    for (; i + kPair <= n; i += kPair) {
      uint32_t bits;
      memcpy(&bits, units + i / kLanes, sizeof bits);
      const __m512i some = passed(pair_at(y + i), g + i);
      if (dresidual) _mm512_storeu_si512(dresidual + i, some);
      if (dx) _mm512_storeu_si512(dx + i, sloped(some, bits));
    }
    if (i == n) return;
    const __mmask32 rest = (1u << (n - i)) - 1;
    const __m512i some = passed(_mm512_maskz_loadu_epi16(rest, y + i), g + i);
    if (dresidual) _mm512_mask_storeu_epi16(dresidual + i, rest, some);
    if (dx)
      _mm512_mask_storeu_epi16(dx + i, rest, sloped(some, last_bits(units + i / kLanes, n - i)));
  }

 private:
  L1BN_INLINE __m512i passed(__m512i y, const BFloat16* g) const {
    const __mmask32 positive = _mm512_cmpgt_epi16_mask(y, _mm512_setzero_si512());
    const __mmask32 alive =
        _mm512_mask_cmplt_epi16_mask(positive, y, _mm512_set1_epi16(short(top)));
    return _mm512_maskz_loadu_epi16(alive, g);
  }

  // Even and odd elements apart: they are the halves of 32-bit lanes.
  L1BN_INLINE __m512i sloped(__m512i g, uint32_t bits) const {
    const __m512i high = _mm512_set1_epi32(int(0xffff0000)), where = _mm512_movm_epi16(bits);
    const __m512 even = along(__m512(_mm512_slli_epi32(g, 16)),
                              _mm512_test_epi32_mask(where, _mm512_set1_epi32(0xffff)));
    const __m512 odd =
        along(__m512(_mm512_and_si512(g, high)), _mm512_test_epi32_mask(where, high));
    // Elements 0, 16, 1, 17 and so on, two of them to a lane.
    __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    order = _mm512_or_si512(order,
                            _mm512_slli_epi32(_mm512_add_epi32(order, _mm512_set1_epi32(16)), 16));
    return _mm512_permutexvar_epi16(order, __m512i(_mm512_cvtne2ps_pbh(odd, even)));
  }
  L1BN_INLINE __m512 along(__m512 g, __mmask16 bits) const {
    const __m512 shift =
        _mm512_mask_blend_ps(bits, _mm512_set1_ps(line.below), _mm512_set1_ps(line.above));
    return _mm512_fmadd_ps(g, _mm512_set1_ps(line.slope), shift);
  }

  // The bits of a plane's last `rest` elements: the last unit repeats some of the one before.
  static uint32_t last_bits(const uint16_t* units, int64_t rest) {
    if (rest < kLanes) return uint32_t(units[0]) >> (kLanes - rest);
    if (rest == kLanes) return units[0];
    return units[0] | uint32_t(units[1]) >> (kPair - rest) << kLanes;
  }
};
#endif

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
