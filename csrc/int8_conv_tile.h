// The one inner loop of all three operations: a small matrix product whose left side is gathered.
//
//   out[i][lane] = init[i][lane] + sum over r of group(a[i] + offset[r]) . panel[r][lane]
//
// A row i is an output pixel (forward, input gradient) or a weight position (weight gradient); lanes
// run over output channels. Every read of `a` is one group broadcast to all lanes.
#pragma once
#include "int8_conv_dot.h"

namespace l1bn {
namespace int8_conv {
namespace L1BN_ISA {

// The right side for V vectors of channels: [depth][V * kLanes][kGroup].
struct Panel {
  const B* data;
  const int64_t* offset;  // [depth], bytes
  int64_t depth;
};

struct Tile {
  const char* a[kMaxRows];
  const int32_t* init[kMaxRows];
  int32_t* out[kMaxRows];
  int64_t rows;      // those in use; the pointers of the others repeat a used one
  int64_t channels;  // lanes to store, more than (V - 1) * kLanes
  uint32_t* peak;    // [V * kLanes] largest magnitudes so far, or null
};

template <int V>
void multiply(const Panel& panel, const Tile& tile) {
  constexpr int R = kRows<V>;
  Vec sum[R][V];
  const char* a[R];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    a[i] = tile.a[i];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[i][v] = load(tile.init[i] + v * kLanes);
  }
  const B* b = panel.data;
  for (int64_t r = 0; r < panel.depth; ++r, b += V * kLanes * kGroup) {
    const int64_t offset = panel.offset[r];
    Vec right[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) right[v] = load(b + v * kLanes * kGroup);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const Vec left = broadcast(a[i] + offset);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[i][v] = dot(sum[i][v], left, right[v]);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    if (tile.peak) {
      Vec peak = load(tile.peak + v * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) peak = raise(peak, sum[i][v]);
      store(tile.peak + v * kLanes, peak);
    }
    const int64_t left = tile.channels - v * kLanes;
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      if (i >= tile.rows) break;
      if (left >= kLanes)
        store(tile.out[i] + v * kLanes, sum[i][v]);
      else
        store_first(tile.out[i] + v * kLanes, sum[i][v], left);
    }
  }
}

// Channels go in panels of kMaxVectors vectors, the last ones in powers of two.
L1BN_INLINE int panel_vectors(int64_t vectors_left) {
  if (vectors_left >= 4 && kMaxVectors >= 4) return 4;
  return vectors_left >= 2 ? 2 : 1;
}

L1BN_INLINE int panel_rows(int vectors) {
  return vectors == 4 ? kRows<4> : vectors == 2 ? kRows<2> : kRows<1>;
}

L1BN_INLINE void multiply(int vectors, const Panel& panel, const Tile& tile) {
#if defined(__AVX512BW__)
  if (vectors == 4) return multiply<4>(panel, tile);
#endif
  if (vectors == 2) return multiply<2>(panel, tile);
  multiply<1>(panel, tile);
}

// sums[lane] = kShift * sum over r of panel[r][lane]: what the shift of the left side adds.
L1BN_INLINE void shift_sums(int vectors, const B* panel, int64_t depth, uint32_t* sums) {
  int32_t group;
  memset(&group, kShift, sizeof group);
  const Vec shift = broadcast(&group);
  for (int v = 0; v < vectors; ++v) {
    Vec sum = zero();
    if (kShift)
      for (int64_t r = 0; r < depth; ++r)
        sum = dot(sum, shift, load(panel + (r * vectors + v) * kLanes * kGroup));
    store(sums + v * kLanes, sum);
  }
}

}  // namespace L1BN_ISA
}  // namespace int8_conv
}  // namespace l1bn
