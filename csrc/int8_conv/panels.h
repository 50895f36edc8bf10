// Bringing int8 tensors into the forms that the inner loop reads.
#pragma once
#include <stdlib.h>

#include "int8_conv/dot.h"

namespace l1bn {
namespace int8_conv {
namespace L1BN_ISA {

L1BN_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
L1BN_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
L1BN_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
L1BN_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

constexpr int64_t kCacheLine = 64;

// Memory for a call. `data` is null where there is none.
template <class T>
struct Array {
  T* data = nullptr;

  explicit Array(int64_t count) {
    void* memory = nullptr;
    const size_t bytes = size_t(round_up(max_of(count, 1) * int64_t(sizeof(T)), kCacheLine));
    if (posix_memalign(&memory, kCacheLine, bytes) == 0) data = static_cast<T*>(memory);
  }
  ~Array() { free(data); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
};

L1BN_INLINE void copy_shifted(A* out, const int8_t* in, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = A(in[i] + kShift);
}

L1BN_INLINE void fill_shift(A* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = A(kShift);
}

// Pixels of `channels` numbers each become pixels of whole groups. What fills a group up does not
// matter: its weights are zero.
inline void copy_pixels(A* out, const int8_t* in, int64_t pixels, int64_t channels, int64_t pitch) {
  if (channels % kGroup == 0 && pitch == channels) return copy_shifted(out, in, pixels * channels);
  const int64_t padded = round_up(channels, kGroup);
  int64_t i = 0;
  if (sizeof(A) == 1 && padded == kGroup && pitch == channels)
    for (; i + kGroup < pixels; ++i) {  // the last ones would be read beyond their end
      uint32_t group;
      memcpy(&group, in + i * channels, 4);
      group ^= 0x80808080u;
      memcpy(out + i * padded, &group, 4);
    }
  for (; i < pixels; ++i) {
    copy_shifted(out + i * padded, in + i * pitch, channels);
    for (int64_t c = channels; c < padded; ++c) out[i * padded + c] = A(kShift);
  }
}

#if defined(__AVX2__)
constexpr int64_t kBytes = 16;

L1BN_INLINE __m128i load_bytes(const int8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

L1BN_INLINE void store_left(A* out, __m128i v) {
#if defined(L1BN_VNNI)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_xor_si128(v, _mm_set1_epi8(char(kShift))));
#else
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_cvtepi8_epi16(v));
#endif
}

L1BN_INLINE void store_right(B* out, __m128i v) {
#if defined(L1BN_VNNI)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), v);
#else
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_cvtepi8_epi16(v));
#endif
}

// interleave() of sixteen channels.
L1BN_INLINE void interleave_bytes(B* out, const int8_t* const rows[kGroup], int64_t first) {
  const __m128i r0 = load_bytes(rows[0] + first), r1 = load_bytes(rows[1] + first);
  const __m128i low = _mm_unpacklo_epi8(r0, r1), high = _mm_unpackhi_epi8(r0, r1);
  if (kGroup == 2) {
    store_right(out, low);
    store_right(out + 16, high);
    return;
  }
  const __m128i r2 = load_bytes(rows[kGroup - 2] + first);
  const __m128i r3 = load_bytes(rows[kGroup - 1] + first);
  const __m128i low_2 = _mm_unpacklo_epi8(r2, r3), high_2 = _mm_unpackhi_epi8(r2, r3);
  store_right(out, _mm_unpacklo_epi16(low, low_2));
  store_right(out + 16, _mm_unpackhi_epi16(low, low_2));
  store_right(out + 32, _mm_unpacklo_epi16(high, high_2));
  store_right(out + 48, _mm_unpackhi_epi16(high, high_2));
}

// The first `count` of sixteen numbers of the left side.
L1BN_INLINE void store_left_first(A* out, __m128i v, int64_t count) {
#if defined(__AVX512BW__) && defined(L1BN_VNNI)
  const __mmask16 mask = __mmask16((1u << count) - 1);
  _mm_mask_storeu_epi8(out, mask, _mm_xor_si128(v, _mm_set1_epi8(char(kShift))));
#elif defined(__AVX512BW__)
  _mm256_mask_storeu_epi16(out, __mmask16((1u << count) - 1), _mm256_cvtepi8_epi16(v));
#else
  A all[kBytes];
  store_left(all, v);
  memcpy(out, all, size_t(count) * sizeof(A));
#endif
}

// out[c * out_step + i] = in[i * in_step + c] + shift, for `count` <= 16 numbers i and 16 channels.
// Interleaving row i with row i + 8 moves every number's row index one bit up and its channel one
// bit down: after four times they have changed places.
inline void transpose_bytes(A* out, int64_t out_step, const int8_t* in, int64_t in_step,
                            int64_t count) {
  __m128i v[kBytes], u[kBytes];
#pragma GCC unroll 16
  for (int i = 0; i < kBytes; ++i) {
    v[i] = load_bytes(in);
    if (i + 1 < count) in += in_step;
  }
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kBytes; ++i) u[i] = v[i];
#pragma GCC unroll 8
    for (int i = 0; i < kBytes / 2; ++i) {
      v[2 * i] = _mm_unpacklo_epi8(u[i], u[i + kBytes / 2]);
      v[2 * i + 1] = _mm_unpackhi_epi8(u[i], u[i + kBytes / 2]);
    }
  }
  if (count == kBytes) {
#pragma GCC unroll 16
    for (int i = 0; i < kBytes; ++i) store_left(out + i * out_step, v[i]);
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kBytes; ++i) store_left_first(out + i * out_step, v[i], count);
}
#endif

// out[i][j] = rows[j][i]: kGroup rows become one row of groups.
inline void interleave(B* out, const int8_t* const rows[kGroup], int64_t count) {
  int64_t i = 0;
#if defined(__AVX2__)
  for (; i + kBytes <= count; i += kBytes) interleave_bytes(out + i * kGroup, rows, i);
#endif
  for (; i < count; ++i)
    for (int j = 0; j < kGroup; ++j) out[i * kGroup + j] = rows[j][i];
}

// out[c * out_step + i] = in[i * in_step + c] + shift, for `count` numbers i and all channels c.
inline void transpose(A* out, int64_t out_step, const int8_t* in, int64_t in_step, int64_t count,
                      int64_t channels) {
  int64_t c = 0;
#if defined(__AVX2__)
  for (; c + kBytes <= channels; c += kBytes)
    for (int64_t i = 0; i < count; i += kBytes)
      transpose_bytes(out + c * out_step + i, out_step, in + i * in_step + c, in_step,
                      min_of(kBytes, count - i));
#endif
  for (; c < channels; ++c)
    for (int64_t i = 0; i < count; ++i) out[c * out_step + i] = A(in[i * in_step + c] + kShift);
}

// The weights of one tap:
//   out[c / kGroup][lane][c % kGroup] = w[lane * output_step + c * input_step]
inline void pack_weights(B* out, const int8_t* w, int64_t outputs, int64_t lanes, int64_t inputs,
                         int64_t output_step, int64_t input_step) {
  const int64_t whole = inputs / kGroup, groups = ceil_div(inputs, kGroup);
  if (outputs < lanes || whole < groups)
    memset(out, 0, size_t(groups * lanes * kGroup) * sizeof(B));
  if (output_step == 1) {
    for (int64_t g = 0; g < whole; ++g) {
      const int8_t* rows[kGroup];
      for (int j = 0; j < kGroup; ++j) rows[j] = w + (g * kGroup + j) * input_step;
      interleave(out + g * lanes * kGroup, rows, outputs);
    }
  } else {
    // One cache line of every output at a time.
    constexpr int64_t kLine = kCacheLine / kGroup;
    for (int64_t first = 0; first < whole; first += kLine)
      for (int64_t lane = 0; lane < outputs; ++lane)
        for (int64_t g = first; g < min_of(first + kLine, whole); ++g)
          for (int j = 0; j < kGroup; ++j)
            out[(g * lanes + lane) * kGroup + j] =
                w[lane * output_step + (g * kGroup + j) * input_step];
  }
  for (int64_t c = whole * kGroup; c < inputs; ++c)
    for (int64_t lane = 0; lane < outputs; ++lane)
      out[(whole * lanes + lane) * kGroup + c % kGroup] = w[lane * output_step + c * input_step];
}

}  // namespace L1BN_ISA
}  // namespace int8_conv
}  // namespace l1bn
