// Vectors of 32-bit sums, and the dot product that feeds them.
//
// dot(sum, a, b) adds to each 32-bit lane the products of the lane's group of kGroup numbers: four
// bytes where the CPU has VNNI, two 16-bit numbers elsewhere. VNNI multiplies unsigned by signed:
// there `a` holds its numbers plus kShift, and every user takes kShift * sum(b) off again.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define L1BN_VNNI
#endif
// Of lambdas, and of functions.
#define L1BN_INLINED __attribute__((always_inline))
#define L1BN_INLINE inline L1BN_INLINED

namespace l1bn {
namespace int8_conv {
namespace L1BN_ISA {

#if defined(L1BN_VNNI)
using A = uint8_t;
using B = int8_t;
constexpr int kShift = 128;
#else
using A = int16_t;
using B = int16_t;
constexpr int kShift = 0;
#endif
constexpr int kGroup = 4 / sizeof(A);

#if defined(__AVX512BW__)

using Vec = __m512i;
constexpr int kLanes = 16;
constexpr int kMaxVectors = 4;

L1BN_INLINE Vec load(const void* p) { return _mm512_loadu_si512(p); }
L1BN_INLINE void store(void* p, Vec v) { _mm512_storeu_si512(p, v); }
L1BN_INLINE void store_first(int32_t* p, Vec v, int64_t n) {
  _mm512_mask_storeu_epi32(p, __mmask16((1u << n) - 1), v);
}
L1BN_INLINE Vec broadcast(const void* p) {
  int32_t group;
  memcpy(&group, p, 4);
  return _mm512_set1_epi32(group);
}
L1BN_INLINE Vec dot(Vec sum, Vec a, Vec b) {
#if defined(L1BN_VNNI)
  return _mm512_dpbusd_epi32(sum, a, b);
#else
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}
L1BN_INLINE Vec zero() { return _mm512_setzero_si512(); }
L1BN_INLINE Vec subtract(Vec a, Vec b) { return _mm512_sub_epi32(a, b); }
// The larger of two magnitudes, `peak` given as one: |-2^31| is 2^31, unsigned.
L1BN_INLINE Vec raise(Vec peak, Vec v) { return _mm512_max_epu32(peak, _mm512_abs_epi32(v)); }

#elif defined(__AVX2__)

using Vec = __m256i;
constexpr int kLanes = 8;
constexpr int kMaxVectors = 2;

L1BN_INLINE Vec load(const void* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
L1BN_INLINE void store(void* p, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
L1BN_INLINE Vec broadcast(const void* p) {
  int32_t group;
  memcpy(&group, p, 4);
  return _mm256_set1_epi32(group);
}
L1BN_INLINE Vec dot(Vec sum, Vec a, Vec b) {
#if defined(L1BN_VNNI)
  return _mm256_dpbusd_avx_epi32(sum, a, b);
#else
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
}
L1BN_INLINE Vec zero() { return _mm256_setzero_si256(); }
L1BN_INLINE Vec subtract(Vec a, Vec b) { return _mm256_sub_epi32(a, b); }
L1BN_INLINE Vec raise(Vec peak, Vec v) { return _mm256_max_epu32(peak, _mm256_abs_epi32(v)); }

#else

typedef int32_t Vec __attribute__((vector_size(16)));
typedef uint32_t Unsigned __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kMaxVectors = 2;

L1BN_INLINE Vec load(const void* p) {
  Vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
L1BN_INLINE void store(void* p, Vec v) { memcpy(p, &v, sizeof v); }
L1BN_INLINE Vec broadcast(const void* p) {
  int32_t group;
  memcpy(&group, p, 4);
  return Vec{group, group, group, group};
}
// Both halves of a lane, sign extended. Which of them lies first does not matter.
L1BN_INLINE Vec dot(Vec sum, Vec a, Vec b) {
  const Vec low_a = Vec(Unsigned(a) << 16) >> 16, low_b = Vec(Unsigned(b) << 16) >> 16;
  const Unsigned products = Unsigned(low_a * low_b) + Unsigned((a >> 16) * (b >> 16));
  return Vec(Unsigned(sum) + products);
}
L1BN_INLINE Vec zero() { return Vec{0, 0, 0, 0}; }
L1BN_INLINE Vec subtract(Vec a, Vec b) { return Vec(Unsigned(a) - Unsigned(b)); }
L1BN_INLINE Vec raise(Vec peak, Vec v) {
  const Vec sign = v >> 31;
  const Unsigned size = Unsigned(v ^ sign) - Unsigned(sign);
  const Unsigned larger = Unsigned(size > Unsigned(peak));
  return Vec((size & larger) | (Unsigned(peak) & ~larger));
}

#endif

#if !defined(__AVX512BW__)
L1BN_INLINE void store_first(int32_t* p, Vec v, int64_t n) {
  int32_t lanes[kLanes];
  store(lanes, v);
  memcpy(p, lanes, size_t(n) * sizeof *p);
}
#endif

}  // namespace L1BN_ISA
}  // namespace int8_conv
}  // namespace l1bn
