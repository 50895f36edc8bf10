// Integer vectors of the instruction set, and the single lane in which leftover rows are computed.
//
// A kernel is written once for a vector type V: I32 or I16, or int32_t, the single lane. As in
// norm/simd.h, everything is anonymous inside one namespace per instruction set.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Of lambdas, and of functions.
#define L1BN_INLINED __attribute__((always_inline))
#define L1BN_INLINE inline L1BN_INLINED

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define L1BN_NATIVE 64
#elif defined(__AVX2__)
#define L1BN_NATIVE 32
#else
#define L1BN_NATIVE 16
#endif

namespace l1bn {
namespace int8_norm {
namespace L1BN_ISA {
namespace {

typedef int16_t I16 __attribute__((vector_size(L1BN_NATIVE)));
typedef int32_t I32 __attribute__((vector_size(L1BN_NATIVE)));
typedef uint32_t U32 __attribute__((vector_size(L1BN_NATIVE)));
typedef int64_t I64 __attribute__((vector_size(L1BN_NATIVE)));
typedef uint64_t U64 __attribute__((vector_size(L1BN_NATIVE)));

template <class T, int lanes>
struct Vector {
  typedef T type __attribute__((vector_size(sizeof(T) * lanes)));
};

// Number of lanes.
template <class V>
constexpr int kLanes = 1;
template <>
constexpr int kLanes<I16> = L1BN_NATIVE / 2;
template <>
constexpr int kLanes<I32> = L1BN_NATIVE / 4;
template <>
constexpr int kLanes<I64> = L1BN_NATIVE / 8;

template <class V, class T>
L1BN_INLINE V load(const T* from) {
  if constexpr (kLanes<V> == 1) {
    return static_cast<V>(*from);
  } else {
    typename Vector<T, kLanes<V>>::type raw;
    memcpy(&raw, from, sizeof raw);
    return __builtin_convertvector(raw, V);
  }
}

template <class T, class V>
L1BN_INLINE void store(T* to, V value) {
  if constexpr (kLanes<V> == 1) {
    *to = static_cast<T>(value);
  } else {
    using Raw = typename Vector<T, kLanes<V>>::type;
    const Raw raw = __builtin_convertvector(value, Raw);
    memcpy(to, &raw, sizeof raw);
  }
}

// gcc 12 converts between lanes of unlike widths element by element where one instruction would do.
#if L1BN_NATIVE == 64
#define L1BN_LOAD(V, T, call, raw)                               \
  template <>                                                    \
  L1BN_INLINE V load<V, T>(const T* from) {                      \
    return V(call(raw(reinterpret_cast<const __m128i*>(from)))); \
  }
template <>
L1BN_INLINE I16 load<I16, int8_t>(const int8_t* from) {
  return I16(_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
}
L1BN_LOAD(I32, int8_t, _mm512_cvtepi8_epi32, _mm_loadu_si128)
L1BN_LOAD(I64, int8_t, _mm512_cvtepi8_epi64, _mm_loadl_epi64)
L1BN_LOAD(I64, int16_t, _mm512_cvtepi16_epi64, _mm_loadu_si128)
#undef L1BN_LOAD
template <>
L1BN_INLINE void store<int8_t, I16>(int8_t* to, I16 value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(__m512i(value)));
}
template <>
L1BN_INLINE void store<int8_t, I32>(int8_t* to, I32 value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(__m512i(value)));
}
template <>
L1BN_INLINE void store<int16_t, I64>(int16_t* to, I64 value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi64_epi16(__m512i(value)));
}
#elif L1BN_NATIVE == 32
#define L1BN_LOAD(V, T, call, raw)                               \
  template <>                                                    \
  L1BN_INLINE V load<V, T>(const T* from) {                      \
    return V(call(raw(reinterpret_cast<const __m128i*>(from)))); \
  }
L1BN_LOAD(I16, int8_t, _mm256_cvtepi8_epi16, _mm_loadu_si128)
L1BN_LOAD(I32, int8_t, _mm256_cvtepi8_epi32, _mm_loadl_epi64)
L1BN_LOAD(I64, int16_t, _mm256_cvtepi16_epi64, _mm_loadl_epi64)
#undef L1BN_LOAD
// The values fit the narrow lanes, so that saturation changes none.
template <>
L1BN_INLINE void store<int8_t, I16>(int8_t* to, I16 value) {
  const __m256i v = __m256i(value);
  const __m128i low = _mm256_castsi256_si128(v), high = _mm256_extracti128_si256(v, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(low, high));
}
template <>
L1BN_INLINE void store<int8_t, I32>(int8_t* to, I32 value) {
  const __m256i v = __m256i(value);
  const __m128i low = _mm256_castsi256_si128(v), high = _mm256_extracti128_si256(v, 1);
  const __m128i words = _mm_packs_epi32(low, high);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(words, words));
}
#endif

template <class V>
L1BN_INLINE V all(int value) {
  if constexpr (kLanes<V> == 1)
    return value;
  else if constexpr (kLanes<V> == kLanes<I16>)
    return V{} + static_cast<int16_t>(value);
  else
    return V{} + value;
}

template <class V>
L1BN_INLINE V smaller(V a, V b) {
  return a < b ? a : b;
}
template <class V>
L1BN_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}
template <class V>
L1BN_INLINE V clip(V value, V low, V high) {
  return smaller(larger(value, low), high);
}

// sums[lane] += value[lane]
template <class V>
L1BN_INLINE void add_to(int64_t* sums, V value) {
  if constexpr (kLanes<V> == 1) {
    *sums += value;
  } else {
    for (int lane = 0; lane < kLanes<V>; ++lane) sums[lane] += value[lane];
  }
}

// Sums of products of 16-bit lanes, in 32 bits: those of the even and of the odd lanes apart, so
// that nothing moves between lanes.
template <class V>
struct Products {
  I32 even = {}, odd = {};
  L1BN_INLINE void add(V a, V b) {
    const I32 pair = I32(a * b);
    even += (pair << 16) >> 16;
    odd += pair >> 16;
  }
  L1BN_INLINE void add_to(int64_t* sums) const {
    for (int lane = 0; lane < kLanes<I32>; ++lane) {
      sums[2 * lane] += even[lane];
      sums[2 * lane + 1] += odd[lane];
    }
  }
};
template <>
struct Products<int32_t> {
  int32_t sum = 0;
  L1BN_INLINE void add(int32_t a, int32_t b) { sum += a * b; }
  L1BN_INLINE void add_to(int64_t* sums) const { *sums += sum; }
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace int8_norm
}  // namespace l1bn
