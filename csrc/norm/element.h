// Element types: how sixteen stored values become a Pack and back, and stores past the cache.
#pragma once
#include "norm/simd.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// The type in which an element type is computed.
template <class T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <class T>
using Acc = typename Compute<T>::type;

typedef uint16_t Short16 __attribute__((vector_size(L1BN_NATIVE / 2)));
typedef uint32_t Word16 __attribute__((vector_size(L1BN_NATIVE)));
using FloatV = Pack<float>::V;

L1BN_INLINE Pack<float> load(const float* p) { return Pack<float>::load(p); }
L1BN_INLINE Pack<double> load(const double* p) { return Pack<double>::load(p); }
L1BN_INLINE void store(float* p, const Pack<float>& a) { a.store(p); }
L1BN_INLINE void store(double* p, const Pack<double>& a) { a.store(p); }

// gcc 12 widens and narrows integers in several steps, hence the instructions by name.
#if defined(L1BN_AVX512)
L1BN_INLINE Pack<float> load(const BFloat16* p) {
  Pack<float> out;
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  out.v[0] = (FloatV)_mm512_slli_epi32(words, 16);
  return out;
}
L1BN_INLINE __m256i narrowed(Word16 words) { return _mm512_cvtepi32_epi16((__m512i)words); }
#elif defined(__AVX2__)
L1BN_INLINE Pack<float> load(const BFloat16* p) {
  Pack<float> out;
  L1BN_UNROLL for (int i = 0; i < 2; ++i) {
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(p + 8 * i)));
    out.v[i] = (FloatV)_mm256_slli_epi32(words, 16);
  }
  return out;
}
L1BN_INLINE __m128i narrowed(Word16 words) {
  const __m256i pairs = _mm256_packus_epi32((__m256i)words, (__m256i)words);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0x08));
}
#else
L1BN_INLINE Pack<float> load(const BFloat16* p) {
  Pack<float> out;
  L1BN_UNROLL for (int i = 0; i < Pack<float>::kParts; ++i) {
    Short16 raw;
    memcpy(&raw, p + i * Pack<float>::kWide, sizeof raw);
    out.v[i] = (FloatV)(__builtin_convertvector(raw, Word16) << 16);
  }
  return out;
}
L1BN_INLINE Short16 narrowed(Word16 words) { return __builtin_convertvector(words, Short16); }
#endif

// The even or the odd ones of 32 elements; for wider types the first or the second half.
template <class T>
L1BN_INLINE Pack<Acc<T>> load_even(const T* p) {
  return load(p);
}
template <class T>
L1BN_INLINE Pack<Acc<T>> load_odd(const T* p) {
  return load(p + kLanes);
}
template <bool kOdd>
L1BN_INLINE Pack<float> load_half(const BFloat16* p) {
  Pack<float> out;
  L1BN_UNROLL for (int i = 0; i < Pack<float>::kParts; ++i) {
    Word16 words;
    memcpy(&words, p + 2 * i * Pack<float>::kWide, sizeof words);
    out.v[i] = (FloatV)(kOdd ? words & 0xffff0000u : words << 16);
  }
  return out;
}
L1BN_INLINE Pack<float> load_even(const BFloat16* p) { return load_half<false>(p); }
L1BN_INLINE Pack<float> load_odd(const BFloat16* p) { return load_half<true>(p); }

// Round to nearest, ties to even; a NaN stays a quiet NaN.
#if defined(__AVX512BF16__)
// The instruction takes what is below the smallest normal number for 0.
L1BN_INLINE void store(BFloat16* p, const Pack<float>& a) {
  const __m256bh raw = _mm512_cvtneps_pbh((__m512)a.v[0]);
  memcpy(p, &raw, sizeof raw);
}
#else
L1BN_INLINE void store(BFloat16* p, const Pack<float>& a) {
  L1BN_UNROLL for (int i = 0; i < Pack<float>::kParts; ++i) {
    const Word16 word = (Word16)a.v[i], high = word >> 16;
    const Word16 rounded = (word + 0x7fffu + (high & 1u)) >> 16;
    const Word16 result = (a.v[i] == a.v[i]) ? rounded : high | 0x40u;
    const auto raw = narrowed(result);
    memcpy(p + i * Pack<float>::kWide, &raw, sizeof raw);
  }
}
#endif

#if defined(L1BN_AVX512)
L1BN_INLINE Pack<float> load(const Half* p) {
  Pack<float> out;
  out.v[0] = (FloatV)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
  return out;
}
L1BN_INLINE void store(Half* p, const Pack<float>& a) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)a.v[0], _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__AVX2__) && defined(__F16C__)
L1BN_INLINE Pack<float> load(const Half* p) {
  Pack<float> out;
  for (int i = 0; i < 2; ++i)
    out.v[i] = (FloatV)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8 * i)));
  return out;
}
L1BN_INLINE void store(Half* p, const Pack<float>& a) {
  for (int i = 0; i < 2; ++i)
    _mm_storeu_si128((__m128i*)(p + 8 * i),
                     _mm256_cvtps_ph((__m256)a.v[i], _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__ARM_NEON) && defined(__aarch64__)
L1BN_INLINE Pack<float> load(const Half* p) {
  Pack<float> out;
  for (int i = 0; i < 4; ++i)
    out.v[i] = (FloatV)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t*)p + 4 * i)));
  return out;
}
L1BN_INLINE void store(Half* p, const Pack<float>& a) {
  for (int i = 0; i < 4; ++i)
    vst1_u16((uint16_t*)p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)a.v[i])));
}
#else
// Without conversion instructions: integer arithmetic, one value at a time.
inline float widen(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, magnitude = half & 0x7fffu;
  uint32_t word = sign | ((magnitude << 13) + (112u << 23));
  if (magnitude >= 0x7c00u) word += 112u << 23;  // infinity and NaN
  float out;
  if (magnitude < 0x0400u) {  // subnormal
    out = (float)magnitude * 5.9604644775390625e-8f;
    return sign ? -out : out;
  }
  memcpy(&out, &word, sizeof out);
  return out;
}
inline uint16_t narrow(float value) {
  uint32_t word;
  memcpy(&word, &value, sizeof word);
  const uint32_t sign = (word >> 16) & 0x8000u, magnitude = word & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // subnormal: let the float unit round to nearest even
    float shifted;
    memcpy(&shifted, &magnitude, sizeof shifted);
    shifted += 0.5f;
    uint32_t raw;
    memcpy(&raw, &shifted, sizeof raw);
    return (uint16_t)(sign | (raw - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23);
  return (uint16_t)(sign | (rounded >> 13));
}
L1BN_INLINE Pack<float> load(const Half* p) {
  float wide[kLanes];
  for (int i = 0; i < kLanes; ++i) wide[i] = widen(p[i].bits);
  return Pack<float>::load(wide);
}
L1BN_INLINE void store(Half* p, const Pack<float>& a) {
  float wide[kLanes];
  a.store(wide);
  for (int i = 0; i < kLanes; ++i) p[i].bits = narrow(wide[i]);
}
#endif

// Single values take the way through a vector: parameters are few.
template <class T>
__attribute__((noinline)) Acc<T> load_one(const T* p) {
  T padded[kLanes] = {*p};
  return load(padded).v[0][0];
}

template <class T>
__attribute__((noinline)) void store_one(T* p, Acc<T> value) {
  T padded[kLanes];
  store(padded, Pack<Acc<T>>::all(value));
  *p = padded[0];
}

L1BN_INLINE float value_of(const float* p) { return *p; }
L1BN_INLINE double value_of(const double* p) { return *p; }
L1BN_INLINE float value_of(const Half* p) { return load_one(p); }
L1BN_INLINE float value_of(const BFloat16* p) {
  const uint32_t word = (uint32_t)p->bits << 16;
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}

// Copy past the cache: the destination is not read first and evicts nothing.
__attribute__((noinline)) inline void stream_copy(char* to, const char* from, int64_t bytes) {
#if defined(__x86_64__)
  constexpr int64_t line = 64;
  int64_t head = (line - ((uintptr_t)to & (line - 1))) & (line - 1);
  if (head > bytes) head = bytes;
  memcpy(to, from, head);
  int64_t i = head;
  for (; i + line <= bytes; i += line) {
#if defined(L1BN_AVX512)
    _mm512_stream_si512((__m512i*)(to + i), _mm512_loadu_si512(from + i));
#elif defined(__AVX2__)
    for (int j = 0; j < 64; j += 32)
      _mm256_stream_si256((__m256i*)(to + i + j), _mm256_loadu_si256((const __m256i*)(from + i + j)));
#else
    for (int j = 0; j < 64; j += 16)
      _mm_stream_si128((__m128i*)(to + i + j), _mm_loadu_si128((const __m128i*)(from + i + j)));
#endif
  }
  memcpy(to + i, from + i, bytes - i);
#else
  memcpy(to, from, bytes);
#endif
}

inline void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
