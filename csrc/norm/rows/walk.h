// Walking rows of channels (channels_last, or (N, C)): tiles of rows, groups of sixteen channels.
#pragma once
#include <type_traits>

#include "norm/element.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

// Rows between two flushes of single-precision sums into double.
constexpr int64_t kTileRows = 64;

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

// f(row, stop) over tiles of the rows [first, last). Within them whole rows are read, in the order
// of memory: blocks of channels that would fit a cache are short pieces, which the hardware
// prefetches badly (docs/notes/cpu_kernels.md).
template <class F>
L1BN_INLINE void for_tiles(int64_t first, int64_t last, bool backwards, F&& f) {
  const int64_t tiles = (last - first + kTileRows - 1) / kTileRows;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t row = first + (backwards ? tiles - 1 - i : i) * kTileRows;
    f(row, row + kTileRows < last ? row + kTileRows : last);
  }
}

// Rows of few whole groups, whose sums stay in registers (on AVX-512; the compiler spills what does
// not fit). A step takes packs that lie
// next to each other: one row, or several where a row has fewer than four groups, so that an
// addition does not wait for the one before.
template <int G>
struct Narrow {
  static constexpr int groups = G, packs = G < 4 ? 4 : G, rows = packs / G;

  // each(pack, group, element) over the rows [row, stop).
  template <class Each>
  static L1BN_INLINE void walk(int64_t row, int64_t stop, Each&& each) {
    int64_t at = row * groups * kLanes;
    for (; row + rows <= stop; row += rows, at += packs * kLanes) L1BN_UNROLL_ALL
    for (int j = 0; j < packs; ++j) each(j, j % groups, at + j * kLanes);
    if constexpr (rows > 1)
      for (; row < stop; ++row, at += groups * kLanes) L1BN_UNROLL_ALL
    for (int j = 0; j < groups; ++j) each(j, j, at + j * kLanes);
  }
};

// f(Narrow) where the rows are narrow: true, or false where f was not called. Only for the element
// types that training mostly uses: each width is compiled by itself.
template <class T, int kMost, class F>
L1BN_INLINE bool if_narrow(int64_t channels, F&& f) {
  if constexpr (sizeof(Acc<T>) == 8 || std::is_same_v<T, Half>)
    return false;
  else
    switch (channels) {
      case kLanes:
        return f(Narrow<1>{}), true;
      case 2 * kLanes:
        return f(Narrow<2>{}), true;
      case 4 * kLanes:
        return f(Narrow<4>{}), true;
      case 8 * kLanes:
        return f(Narrow<8>{}), true;
      case 16 * kLanes:
        if constexpr (kMost >= 16) return f(Narrow<16>{}), true;
    }
  return false;
}

template <bool kStream, class T>
L1BN_INLINE void put(T* p, const Pack<Acc<T>>& a) {
  if constexpr (kStream)
    put_streaming(p, a);
  else
    store(p, a);
}

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
