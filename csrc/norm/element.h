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

// Asks for what a walk over memory reads next. The processor's own prefetching stops at each page
// of 4 KiB, and begins again late. Past the end of a tensor it does nothing.
L1BN_INLINE void ahead(const void* p) {
  constexpr int64_t distance = 2048;  // bytes
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) + distance));
}

L1BN_INLINE Pack<float> load(const float* p) {
  ahead(p);
  return Pack<float>::load(p);
}
L1BN_INLINE Pack<double> load(const double* p) {
  ahead(p);
  return Pack<double>::load(p);
}

// Sixteen values as memory holds them, in vectors of the instruction set: a store writes those as
// they are, and one past the caches needs no copy to be read again.
template <class T>
struct Stored {
  static constexpr int kBytes = kLanes * sizeof(T);
  static constexpr int kPiece = kBytes < L1BN_NATIVE ? kBytes : L1BN_NATIVE;
  typedef uint16_t V __attribute__((vector_size(kPiece)));
  static constexpr int kCount = kBytes / kPiece;
  V v[kCount];
};

template <class T>
L1BN_INLINE Stored<T> stored(const Pack<T>& a) {
  Stored<T> out;
  L1BN_UNROLL
  for (int i = 0; i < Stored<T>::kCount; ++i) out.v[i] = typename Stored<T>::V(a.v[i]);
  return out;
}
L1BN_INLINE Stored<float> stored_as(const float*, const Pack<float>& a) { return stored(a); }
L1BN_INLINE Stored<double> stored_as(const double*, const Pack<double>& a) { return stored(a); }

// gcc 12 widens and narrows integers in several steps, hence the instructions by name.
#if defined(L1BN_AVX512)
L1BN_INLINE Pack<float> load(const BFloat16* p) {
  Pack<float> out;
  const __m512i words =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  out.v[0] = FloatV(_mm512_slli_epi32(words, 16));
  return out;
}
L1BN_INLINE __m256i narrowed(Word16 words) { return _mm512_cvtepi32_epi16(__m512i(words)); }
#elif defined(__AVX2__)
L1BN_INLINE Pack<float> load(const BFloat16* p) {
  Pack<float> out;
  L1BN_UNROLL
  for (int i = 0; i < 2; ++i) {
    const __m256i words =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * i)));
    out.v[i] = FloatV(_mm256_slli_epi32(words, 16));
  }
  return out;
}
L1BN_INLINE __m256i narrowed(Word16 low, Word16 high) {
  const __m256i pairs = _mm256_packus_epi32(__m256i(low), __m256i(high));
  return _mm256_permute4x64_epi64(pairs, 0xd8);
}
#elif defined(__x86_64__)
// Between zeros each becomes the upper half of a word: no shift.
L1BN_INLINE Pack<float> load(const BFloat16* p) {
  Pack<float> out;
  const __m128i zero = _mm_setzero_si128();
  L1BN_UNROLL
  for (int i = 0; i < 2; ++i) {
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * i));
    out.v[2 * i] = FloatV(_mm_unpacklo_epi16(zero, raw));
    out.v[2 * i + 1] = FloatV(_mm_unpackhi_epi16(zero, raw));
  }
  return out;
}
// SSE2 narrows with signed saturation only, which the sign of the lower half passes.
L1BN_INLINE __m128i narrowed(Word16 low, Word16 high) {
  typedef int32_t Signed __attribute__((vector_size(16)));
  return _mm_packs_epi32(__m128i(Signed(low << 16) >> 16), __m128i(Signed(high << 16) >> 16));
}
#else
L1BN_INLINE Pack<float> load(const BFloat16* p) {
  Pack<float> out;
  L1BN_UNROLL
  for (int i = 0; i < Pack<float>::kParts; ++i) {
    Short16 raw;
    memcpy(&raw, p + i * Pack<float>::kWide, sizeof raw);
    out.v[i] = FloatV(__builtin_convertvector(raw, Word16) << 16);
  }
  return out;
}
L1BN_INLINE Stored<BFloat16>::V narrowed(Word16 low, Word16 high) {
  const Short16 a = __builtin_convertvector(low, Short16),
                b = __builtin_convertvector(high, Short16);
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
}
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
  L1BN_UNROLL
  for (int i = 0; i < Pack<float>::kParts; ++i) {
    Word16 words;
    memcpy(&words, p + 2 * i * Pack<float>::kWide, sizeof words);
    out.v[i] = FloatV(kOdd ? words & 0xffff0000u : words << 16);
  }
  return out;
}
L1BN_INLINE Pack<float> load_even(const BFloat16* p) { return load_half<false>(p); }
L1BN_INLINE Pack<float> load_odd(const BFloat16* p) { return load_half<true>(p); }

// Round to nearest, ties to even; a NaN stays a quiet NaN.
#if defined(__AVX512BF16__)
// The instruction takes what is below the smallest normal number for 0.
L1BN_INLINE Stored<BFloat16> stored_as(const BFloat16*, const Pack<float>& a) {
  Stored<BFloat16> out;
  out.v[0] = Stored<BFloat16>::V(_mm512_cvtneps_pbh(__m512(a.v[0])));
  return out;
}
#elif defined(__SSE2__) && !defined(__AVX2__)
// Rounded by an addition that a NaN does not take, and shifted with its sign, so that the signed
// saturation of narrowing passes it.
L1BN_INLINE __m128i rounded(FloatV value) {
  const __m128i word = __m128i(value);
  const __m128i number = _mm_castps_si128(_mm_cmpord_ps(__m128(value), __m128(value)));
  const __m128i odd = _mm_and_si128(_mm_srli_epi32(word, 16), _mm_set1_epi32(1));
  const __m128i more = _mm_and_si128(_mm_add_epi32(odd, _mm_set1_epi32(0x7fff)), number);
  const __m128i quiet = _mm_andnot_si128(number, _mm_set1_epi32(0x400000));
  return _mm_srai_epi32(_mm_add_epi32(_mm_or_si128(word, quiet), more), 16);
}
L1BN_INLINE Stored<BFloat16> stored_as(const BFloat16*, const Pack<float>& a) {
  Stored<BFloat16> out;
  L1BN_UNROLL
  for (int i = 0; i < Stored<BFloat16>::kCount; ++i)
    out.v[i] = Stored<BFloat16>::V(_mm_packs_epi32(rounded(a.v[2 * i]), rounded(a.v[2 * i + 1])));
  return out;
}
#else
L1BN_INLINE Word16 rounded(FloatV value) {
  const Word16 word = Word16(value), high = word >> 16;
  const Word16 nearest = (word + 0x7fffu + (high & 1u)) >> 16;
  return (value == value) ? nearest : high | 0x40u;
}
L1BN_INLINE Stored<BFloat16> stored_as(const BFloat16*, const Pack<float>& a) {
  Stored<BFloat16> out;
#if defined(L1BN_AVX512)
  out.v[0] = Stored<BFloat16>::V(narrowed(rounded(a.v[0])));
#else
  L1BN_UNROLL
  for (int i = 0; i < Stored<BFloat16>::kCount; ++i)
    out.v[i] = Stored<BFloat16>::V(narrowed(rounded(a.v[2 * i]), rounded(a.v[2 * i + 1])));
#endif
  return out;
}
#endif

#if defined(L1BN_AVX512)
L1BN_INLINE Pack<float> load(const Half* p) {
  Pack<float> out;
  out.v[0] = FloatV(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
  return out;
}
L1BN_INLINE Stored<Half> stored_as(const Half*, const Pack<float>& a) {
  Stored<Half> out;
  out.v[0] = Stored<Half>::V(_mm512_cvtps_ph(__m512(a.v[0]), _MM_FROUND_TO_NEAREST_INT));
  return out;
}
#elif defined(__AVX2__) && defined(__F16C__)
L1BN_INLINE Pack<float> load(const Half* p) {
  Pack<float> out;
  for (int i = 0; i < 2; ++i)
    out.v[i] =
        FloatV(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * i))));
  return out;
}
L1BN_INLINE Stored<Half> stored_as(const Half*, const Pack<float>& a) {
  const __m128i low = _mm256_cvtps_ph(__m256(a.v[0]), _MM_FROUND_TO_NEAREST_INT);
  const __m128i high = _mm256_cvtps_ph(__m256(a.v[1]), _MM_FROUND_TO_NEAREST_INT);
  Stored<Half> out;
  out.v[0] = Stored<Half>::V(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1));
  return out;
}
#elif defined(__ARM_NEON) && defined(__aarch64__)
L1BN_INLINE Pack<float> load(const Half* p) {
  Pack<float> out;
  for (int i = 0; i < 4; ++i)
    out.v[i] = FloatV(
        vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p) + 4 * i))));
  return out;
}
L1BN_INLINE Stored<Half> stored_as(const Half*, const Pack<float>& a) {
  Stored<Half> out;
  for (int i = 0; i < 2; ++i)
    out.v[i] = Stored<Half>::V(
        vcvt_high_f16_f32(vcvt_f16_f32(float32x4_t(a.v[2 * i])), float32x4_t(a.v[2 * i + 1])));
  return out;
}
#else
// Without conversion instructions: integer arithmetic, on a vector at a time.
using SignedV = Pack<float>::I;
L1BN_INLINE FloatV widened(SignedV half) {
  const SignedV magnitude = half & 0x7fff, shifted = (magnitude << 13) + (112 << 23);
  const SignedV normal = magnitude >= 0x7c00 ? shifted + (112 << 23) : shifted;  // infinity and NaN
  const FloatV subnormal = __builtin_convertvector(magnitude, FloatV) * 5.9604644775390625e-8f;
  return FloatV((magnitude < 0x0400 ? SignedV(subnormal) : normal) | (half & 0x8000) << 16);
}
L1BN_INLINE Word16 halved(FloatV value) {
  const SignedV magnitude = SignedV(value) & 0x7fffffff;
  // The float unit rounds what becomes subnormal to nearest even.
  const SignedV subnormal = SignedV(FloatV(magnitude) + 0.5f) - 0x3f000000;
  const SignedV normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112 << 23)) >> 13;
  const SignedV huge = (magnitude > 0x7f800000) ? SignedV{} + 0x7e00 : SignedV{} + 0x7c00;
  const SignedV finite = magnitude < 0x38800000 ? subnormal : normal;
  return Word16((magnitude >= 0x477ff000 ? huge : finite) | ((SignedV(value) >> 16) & 0x8000));
}
L1BN_INLINE Pack<float> load(const Half* p) {
  Pack<float> out;
  L1BN_UNROLL
  for (int i = 0; i < Pack<float>::kParts; ++i) {
    Short16 raw;
    memcpy(&raw, p + i * Pack<float>::kWide, sizeof raw);
    out.v[i] = widened(__builtin_convertvector(raw, SignedV));
  }
  return out;
}
L1BN_INLINE Stored<Half> stored_as(const Half*, const Pack<float>& a) {
  Stored<Half> out;
  L1BN_UNROLL
  for (int i = 0; i < Stored<Half>::kCount; ++i)
    out.v[i] = Stored<Half>::V(narrowed(halved(a.v[2 * i]), halved(a.v[2 * i + 1])));
  return out;
}
#endif

template <class T>
L1BN_INLINE void store(T* p, const Pack<Acc<T>>& a) {
  const Stored<T> out = stored_as(p, a);
  char* const to = reinterpret_cast<char*>(p);
  L1BN_UNROLL
  for (int i = 0; i < Stored<T>::kCount; ++i)
    memcpy(to + i * Stored<T>::kPiece, &out.v[i], Stored<T>::kPiece);
}

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
  const uint32_t word = uint32_t(p->bits) << 16;
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}

// Copy past the cache: the destination is not read first and evicts nothing.
__attribute__((noinline)) inline void stream_copy(char* to, const char* from, int64_t bytes) {
#if defined(__x86_64__)
  constexpr int64_t line = 64;
  int64_t head = (line - (reinterpret_cast<uintptr_t>(to) & (line - 1))) & (line - 1);
  if (head > bytes) head = bytes;
  memcpy(to, from, head);
  int64_t i = head;
  for (; i + line <= bytes; i += line) {
#if defined(L1BN_AVX512)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
#elif defined(__AVX2__)
    for (int j = 0; j < 64; j += 32)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i + j),
                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i + j)));
#else
    for (int j = 0; j < 64; j += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i + j),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i + j)));
#endif
  }
  memcpy(to + i, from + i, bytes - i);
#else
  memcpy(to, from, bytes);
#endif
}

// Store to memory past the caches where the address allows it.
template <class T>
L1BN_INLINE void put_streaming(T* p, const Pack<Acc<T>>& a) {
#if defined(__x86_64__)
  using Out = Stored<T>;
  const Out out = stored_as(p, a);
  char* const to = reinterpret_cast<char*>(p);
  L1BN_UNROLL
  for (int i = 0; i < Out::kCount; ++i) {
    char* const piece = to + i * Out::kPiece;
#if defined(L1BN_AVX512)
    if constexpr (Out::kPiece == 64) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(piece), __m512i(out.v[i]));
      continue;
    }
#endif
#if defined(__AVX2__)
    if constexpr (Out::kPiece == 32) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(piece), __m256i(out.v[i]));
      continue;
    }
#endif
    if constexpr (Out::kPiece == 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(piece), __m128i(out.v[i]));
  }
#else
  store(p, a);
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
