// Sixteen lanes of float or double on any instruction set, with gcc's vector extensions.
//
// Everything lives in an anonymous namespace inside one namespace per instruction set: the linker
// must never merge code compiled for AVX-512 into the baseline.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define L1BN_UNROLL _Pragma("GCC unroll 8")
#define L1BN_UNROLL_SOME _Pragma("GCC unroll 4")
#define L1BN_UNROLL_ALL _Pragma("GCC unroll 16")
// Of lambdas, and of functions.
#define L1BN_INLINED __attribute__((always_inline))
#define L1BN_INLINE inline L1BN_INLINED

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define L1BN_AVX512 1
#define L1BN_NATIVE 64
#elif defined(__AVX2__)
#define L1BN_NATIVE 32
#else
#define L1BN_NATIVE 16
#endif

namespace l1bn {
namespace L1BN_ISA {
namespace {

constexpr int kLanes = 16;

template <class T>
struct Integer;
template <>
struct Integer<float> {
  using type = int32_t;
};
template <>
struct Integer<double> {
  using type = int64_t;
};

template <class T>
struct Pack {
  using Int = typename Integer<T>::type;
  typedef T V __attribute__((vector_size(L1BN_NATIVE)));
  typedef Int I __attribute__((vector_size(L1BN_NATIVE)));
  static constexpr int kWide = L1BN_NATIVE / sizeof(T);
  static constexpr int kParts = kLanes / kWide;
  V v[kParts];

  // Copies, loads and stores go vector by vector: gcc 12 moves a whole struct through the stack in
  // pieces of 16 bytes, and the processor cannot forward those to the wide loads that follow.
  Pack() = default;
  L1BN_INLINE Pack(const Pack& other) {
    L1BN_UNROLL
    for (int i = 0; i < kParts; ++i) v[i] = other.v[i];
  }
  L1BN_INLINE Pack& operator=(const Pack& other) {
    L1BN_UNROLL
    for (int i = 0; i < kParts; ++i) v[i] = other.v[i];
    return *this;
  }
  static L1BN_INLINE Pack all(T value) {
    Pack p;
    L1BN_UNROLL
    for (int i = 0; i < kParts; ++i) p.v[i] = value - V{};
    return p;
  }
  static L1BN_INLINE Pack load(const T* from) {
    Pack p;
    L1BN_UNROLL
    for (int i = 0; i < kParts; ++i) memcpy(&p.v[i], from + i * kWide, sizeof(V));
    return p;
  }
  L1BN_INLINE void store(T* to) const {
    L1BN_UNROLL
    for (int i = 0; i < kParts; ++i) memcpy(to + i * kWide, &v[i], sizeof(V));
  }
};

#define L1BN_LANEWISE(op)                                                \
  template <class T>                                                     \
  L1BN_INLINE Pack<T> operator op(Pack<T> a, const Pack<T>& b) {         \
    L1BN_UNROLL                                                          \
    for (int i = 0; i < Pack<T>::kParts; ++i) a.v[i] = a.v[i] op b.v[i]; \
    return a;                                                            \
  }
L1BN_LANEWISE(+)
L1BN_LANEWISE(-)
L1BN_LANEWISE(*)
#undef L1BN_LANEWISE

template <class T>
L1BN_INLINE void operator+=(Pack<T>& a, const Pack<T>& b) {
  a = a + b;
}

template <class T>
L1BN_INLINE Pack<T> absolute(Pack<T> a) {
  using I = typename Pack<T>::I;
  constexpr int shift = sizeof(T) * 8 - 1;
  const I mask = ~(I{} + typename Pack<T>::Int(typename Pack<T>::Int(1) << (shift - 1) << 1));
  L1BN_UNROLL
  for (int i = 0; i < Pack<T>::kParts; ++i) a.v[i] = typename Pack<T>::V(I(a.v[i]) & mask);
  return a;
}

// The larger of both, or `b` where one is NaN, as the instruction has it. gcc 12 makes a comparison
// and a blend of `a > b ? a : b`.
template <class T>
L1BN_INLINE typename Pack<T>::V larger(typename Pack<T>::V a, typename Pack<T>::V b) {
  using V [[maybe_unused]] = typename Pack<T>::V;
#if defined(L1BN_AVX512)
  if constexpr (sizeof(T) == 4)
    return V(_mm512_max_ps(__m512(a), __m512(b)));
  else
    return V(_mm512_max_pd(__m512d(a), __m512d(b)));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return V(_mm256_max_ps(__m256(a), __m256(b)));
  else
    return V(_mm256_max_pd(__m256d(a), __m256d(b)));
#elif defined(__x86_64__)
  if constexpr (sizeof(T) == 4)
    return V(_mm_max_ps(__m128(a), __m128(b)));
  else
    return V(_mm_max_pd(__m128d(a), __m128d(b)));
#else
  return a > b ? a : b;
#endif
}

// Likewise the smaller.
template <class T>
L1BN_INLINE typename Pack<T>::V smaller(typename Pack<T>::V a, typename Pack<T>::V b) {
  using V [[maybe_unused]] = typename Pack<T>::V;
#if defined(L1BN_AVX512)
  if constexpr (sizeof(T) == 4)
    return V(_mm512_min_ps(__m512(a), __m512(b)));
  else
    return V(_mm512_min_pd(__m512d(a), __m512d(b)));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return V(_mm256_min_ps(__m256(a), __m256(b)));
  else
    return V(_mm256_min_pd(__m256d(a), __m256d(b)));
#elif defined(__x86_64__)
  if constexpr (sizeof(T) == 4)
    return V(_mm_min_ps(__m128(a), __m128(b)));
  else
    return V(_mm_min_pd(__m128d(a), __m128d(b)));
#else
  return a < b ? a : b;
#endif
}

// NaN in `a` stays.
template <class T>
L1BN_INLINE Pack<T> clamp(Pack<T> a, const Pack<T>& low, const Pack<T>& high) {
  L1BN_UNROLL
  for (int i = 0; i < Pack<T>::kParts; ++i)
    a.v[i] = smaller<T>(high.v[i], larger<T>(low.v[i], a.v[i]));
  return a;
}

template <class T>
L1BN_INLINE Pack<T> maximum(Pack<T> a, const Pack<T>& b) {
  L1BN_UNROLL
  for (int i = 0; i < Pack<T>::kParts; ++i) a.v[i] = larger<T>(b.v[i], a.v[i]);
  return a;
}

// `value` where low < y < high, 0 elsewhere.
template <class T>
L1BN_INLINE Pack<T> between(const Pack<T>& y, const Pack<T>& low, const Pack<T>& high,
                            Pack<T> value) {
  L1BN_UNROLL
  for (int i = 0; i < Pack<T>::kParts; ++i) {
    const typename Pack<T>::V zero = {};
    value.v[i] = ((y.v[i] > low.v[i]) & ~(y.v[i] >= high.v[i])) ? value.v[i] : zero;
  }
  return value;
}

template <class T>
L1BN_INLINE T horizontal_sum(const Pack<T>& a) {
  T lanes[kLanes];
  a.store(lanes);
  // In pairs: sixteen additions in a row would wait for each other.
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  return lanes[0];
}

template <class T>
L1BN_INLINE T horizontal_max(const Pack<T>& a) {
  T best = a.v[0][0];
  L1BN_UNROLL
  for (int i = 0; i < Pack<T>::kParts; ++i)
    for (int j = 0; j < Pack<T>::kWide; ++j) best = best < a.v[i][j] ? a.v[i][j] : best;
  return best;
}

// Bit j set where a[j] >= b[j]. A NaN gives 0.
L1BN_INLINE unsigned at_least_bits(const Pack<float>& a, const Pack<float>& b) {
#if defined(L1BN_AVX512)
  return _mm512_cmp_ps_mask(__m512(a.v[0]), __m512(b.v[0]), _CMP_GE_OQ);
#else
  unsigned bits = 0;
  L1BN_UNROLL
  for (int i = 0; i < Pack<float>::kParts; ++i) {
#if defined(__AVX2__)
    unsigned part = _mm256_movemask_ps(_mm256_cmp_ps(__m256(a.v[i]), __m256(b.v[i]), _CMP_GE_OQ));
#elif defined(__x86_64__)
    unsigned part = _mm_movemask_ps(_mm_cmpge_ps(__m128(a.v[i]), __m128(b.v[i])));
#elif defined(__ARM_NEON)
    static const uint32_t place[4] = {1, 2, 4, 8};
    unsigned part = vaddvq_u32(
        vandq_u32(vcgeq_f32(float32x4_t(a.v[i]), float32x4_t(b.v[i])), vld1q_u32(place)));
#else
    unsigned part = 0;
    for (int j = 0; j < Pack<float>::kWide; ++j) part |= unsigned(a.v[i][j] >= b.v[i][j]) << j;
#endif
    bits |= part << (i * Pack<float>::kWide);
  }
  return bits;
#endif
}

L1BN_INLINE unsigned at_least_bits(const Pack<double>& a, const Pack<double>& b) {
  unsigned bits = 0;
  L1BN_UNROLL
  for (int i = 0; i < Pack<double>::kParts; ++i) {
#if defined(L1BN_AVX512)
    unsigned part = _mm512_cmp_pd_mask(__m512d(a.v[i]), __m512d(b.v[i]), _CMP_GE_OQ);
#elif defined(__AVX2__)
    unsigned part = _mm256_movemask_pd(_mm256_cmp_pd(__m256d(a.v[i]), __m256d(b.v[i]), _CMP_GE_OQ));
#elif defined(__x86_64__)
    unsigned part = _mm_movemask_pd(_mm_cmpge_pd(__m128d(a.v[i]), __m128d(b.v[i])));
#else
    unsigned part = 0;
    for (int j = 0; j < Pack<double>::kWide; ++j) part |= unsigned(a.v[i][j] >= b.v[i][j]) << j;
#endif
    bits |= part << (i * Pack<double>::kWide);
  }
  return bits;
}

// a[j] where bit j is set, b[j] elsewhere.
template <class T>
L1BN_INLINE Pack<T> choose(unsigned bits, const Pack<T>& a, const Pack<T>& b) {
  Pack<T> out;
  L1BN_UNROLL
  for (int i = 0; i < Pack<T>::kParts; ++i) {
    constexpr int wide = Pack<T>::kWide;
    using I = typename Pack<T>::I;
    using Int = typename Pack<T>::Int;
#if defined(L1BN_AVX512)
    if constexpr (sizeof(T) == 4) {
      out.v[i] = typename Pack<T>::V(
          _mm512_mask_blend_ps(__mmask16(bits), __m512(b.v[i]), __m512(a.v[i])));
    } else {
      out.v[i] = typename Pack<T>::V(
          _mm512_mask_blend_pd(__mmask8(bits >> (8 * i)), __m512d(b.v[i]), __m512d(a.v[i])));
    }
    (void)wide;
    (void)sizeof(I);
    (void)sizeof(Int);
#else
    I place;
    for (int j = 0; j < wide; ++j) place[j] = Int(1) << j;
    const I spread = I{} + Int(bits >> (i * wide));
    out.v[i] = ((spread & place) != 0) ? a.v[i] : b.v[i];
#endif
  }
  return out;
}

// Sums of sixteen lanes kept in double, so that the error does not grow with the element count.
struct Wide {
  Pack<double> lanes;

  L1BN_INLINE void clear() { lanes = Pack<double>::all(0); }
  L1BN_INLINE void add(const Pack<double>& a) { lanes += a; }
  L1BN_INLINE void add(const Pack<float>& a) {
#if defined(L1BN_AVX512)
    // gcc 12 sends the halves through memory.
    using V = Pack<double>::V;
    const __m512 all = __m512(a.v[0]);
    lanes.v[0] += V(_mm512_cvtps_pd(_mm512_castps512_ps256(all)));
    lanes.v[1] += V(_mm512_cvtps_pd(_mm512_extractf32x8_ps(all, 1)));
#elif defined(__AVX2__)
    using V = Pack<double>::V;
    L1BN_UNROLL
    for (int i = 0; i < Pack<float>::kParts; ++i) {
      const __m256 part = __m256(a.v[i]);
      lanes.v[2 * i] += V(_mm256_cvtps_pd(_mm256_castps256_ps128(part)));
      lanes.v[2 * i + 1] += V(_mm256_cvtps_pd(_mm256_extractf128_ps(part, 1)));
    }
#elif defined(__x86_64__)
    using V = Pack<double>::V;
    L1BN_UNROLL
    for (int i = 0; i < Pack<float>::kParts; ++i) {
      const __m128 part = __m128(a.v[i]);
      lanes.v[2 * i] += V(_mm_cvtps_pd(part));
      lanes.v[2 * i + 1] += V(_mm_cvtps_pd(_mm_movehl_ps(part, part)));
    }
#else
    typedef float Half __attribute__((vector_size(L1BN_NATIVE / 2)));
    L1BN_UNROLL
    for (int i = 0; i < Pack<float>::kParts; ++i) {
      Half halves[2];
      memcpy(halves, &a.v[i], sizeof halves);
      for (int j = 0; j < 2; ++j)
        lanes.v[2 * i + j] += __builtin_convertvector(halves[j], Pack<double>::V);
    }
#endif
  }
  L1BN_INLINE double sum() const { return horizontal_sum(lanes); }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
