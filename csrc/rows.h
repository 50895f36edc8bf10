// Walking rows of channels (channels_last, or (N, C)): tiles of rows by up to 64 channels.
#pragma once
#include "element.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

// Rows between two flushes of single-precision sums into double.
constexpr int64_t kTileRows = 64;

template <int K>
struct Width {
  static constexpr int value = K;
};

// Groups of sixteen channels. The last one reaches back where channels are no multiple of sixteen,
// so its first lanes repeat channels of the group before.
struct Groups {
  int64_t channels;

  int64_t count() const { return (channels + kLanes - 1) / kLanes; }
  int64_t start(int64_t group) const {
    const int64_t c = group * kLanes;
    return c + kLanes <= channels ? c : channels - kLanes;
  }
  // The first lane that no other group has.
  int64_t fresh(int64_t group) const { return group * kLanes - start(group); }
};

// f(Width, group, first row, rows) over the tiles of rows [first, last) and groups [begin, end).
template <class F>
L1BN_INLINE void for_tiles(int64_t first, int64_t last, int64_t begin, int64_t end, bool backwards,
                           F&& f) {
  const int64_t tiles = (last - first + kTileRows - 1) / kTileRows;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t row = first + (backwards ? tiles - 1 - i : i) * kTileRows;
    const int64_t rows = row + kTileRows < last ? kTileRows : last - row;
    int64_t g = begin;
    for (; g + 4 <= end; g += 4) f(Width<4>{}, g, row, rows);
    for (; g < end; ++g) f(Width<1>{}, g, row, rows);
  }
}

// Store to memory past the caches where the address allows it.
template <class T>
L1BN_INLINE void put_streaming(T* p, const Pack<Acc<T>>& a) {
#if defined(__x86_64__)
  constexpr int64_t bytes = kLanes * sizeof(T);
  constexpr int64_t piece = bytes < L1BN_NATIVE ? bytes : L1BN_NATIVE;
  alignas(64) char staged[bytes];
  store(reinterpret_cast<T*>(staged), a);
  for (int64_t i = 0; i < bytes; i += piece) {
    char* to = reinterpret_cast<char*>(p) + i;
#if defined(L1BN_AVX512)
    if constexpr (piece == 64) {
      _mm512_stream_si512((__m512i*)to, _mm512_load_si512(staged + i));
      continue;
    }
#endif
#if defined(__AVX2__)
    if constexpr (piece == 32) {
      _mm256_stream_si256((__m256i*)to, _mm256_load_si256((const __m256i*)(staged + i)));
      continue;
    }
#endif
    if constexpr (piece == 16)
      _mm_stream_si128((__m128i*)to, _mm_load_si128((const __m128i*)(staged + i)));
  }
#else
  store(p, a);
#endif
}

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
