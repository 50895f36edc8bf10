// Walking rows of channels (channels_last, or (N, C)): tiles of rows, four at a time.
#pragma once
#include "element.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

// Rows between two flushes of single-precision sums into double.
constexpr int64_t kTileRows = 64;

template <int R>
struct Count {
  static constexpr int value = R;
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

// each(Count, group, row) over the rows [first, last) and within them over the groups [begin, end):
// memory is read in its order, which is what the hardware prefetches. `abreast`: four rows at a time,
// so that an accumulator is neither waited for nor stored as often. done() follows every tile.
template <class Each, class Done>
L1BN_INLINE void for_tiles(int64_t first, int64_t last, int64_t begin, int64_t end, bool abreast,
                           bool backwards, Each&& each, Done&& done) {
  const int64_t tiles = (last - first + kTileRows - 1) / kTileRows;
  for (int64_t i = 0; i < tiles; ++i) {
    int64_t row = first + (backwards ? tiles - 1 - i : i) * kTileRows;
    const int64_t stop = row + kTileRows < last ? row + kTileRows : last;
    for (; abreast && row + 4 <= stop; row += 4)
      for (int64_t g = begin; g < end; ++g) each(Count<4>{}, g, row);
    for (; row < stop; ++row)
      for (int64_t g = begin; g < end; ++g) each(Count<1>{}, g, row);
    done();
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
