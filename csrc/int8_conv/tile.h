// The one inner loop of all three operations: a small matrix product whose left side is gathered.
//
//   out[i][lane] = init[i][lane] + sum over r of group(a[i] + offset[r]) . panel[r][lane]
//
// A row i is an output pixel (forward, input gradient) or a weight position (weight gradient);
// lanes run over output channels. Every read of `a` is one group broadcast to all lanes.
#pragma once
#include "int8_conv/dot.h"

namespace l1bn {
namespace int8_conv {
namespace L1BN_ISA {

// The right side for V vectors of channels: [depth][V * kLanes][kGroup].
struct Panel {
  const B* data;
  const int64_t* offset;  // [depth], bytes
  int64_t depth;
};

struct Row {
  int64_t in;   // bytes from `a`
  int64_t out;  // elements from `out`
};

// The left side, and where the result goes.
struct Rows {
  const Row* list;
  int64_t count;
  const char* a;
  int32_t* out;
  const int32_t* init;  // [V * kLanes] for every row, or null: what `out` holds
  int64_t channels;     // lanes to store, more than (V - 1) * kLanes
  uint32_t* peak;       // [V * kLanes] largest magnitudes so far, or null
  int64_t pair;         // bytes from every even row to the odd one after it; 0: no such order
  bool scattered;       // neighbours in `list` are none in `out`: fetch what will be written
};

// P pointers, of S rows each.
template <int V, int P, int S>
L1BN_INLINE void multiply_tile(const Panel& panel, const Rows& rows, const Row* list,
                               int64_t used) {
  constexpr int R = P * S;
  Vec sum[R][V];
  const char* a[P];
#pragma GCC unroll 16
  for (int i = 0; i < P; ++i) a[i] = rows.a + list[i * S].in;
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      sum[i][v] = load((rows.init ? rows.init : rows.out + list[i].out) + v * kLanes);
  }
  const B* b = panel.data;
  for (int64_t r = 0; r < panel.depth; ++r, b += V * kLanes * kGroup) {
    const int64_t first = panel.offset[r], second = first + rows.pair;
    Vec right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = load(b + v * kLanes * kGroup);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vec left = broadcast(a[i / S] + (i % S ? second : first));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[i][v] = dot(sum[i][v], left, right[v]);
    }
  }
  if (rows.peak) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      Vec peak = load(rows.peak + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) peak = raise(peak, sum[i][v]);
      store(rows.peak + v * kLanes, peak);
    }
  }
  const bool whole = rows.channels >= V * kLanes;
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    if (i >= used) break;
    int32_t* out = rows.out + list[i].out;
#pragma GCC unroll 4
    for (int v = 0; v < V - 1; ++v) store(out + v * kLanes, sum[i][v]);
    if (whole)
      store(out + (V - 1) * kLanes, sum[i][V - 1]);
    else
      store_first(out + (V - 1) * kLanes, sum[i][V - 1], rows.channels - (V - 1) * kLanes);
  }
}

template <int V, int P, int S>
void multiply_rows(const Panel& panel, const Rows& rows) {
  constexpr int R = P * S;
  Row tail[R];
  for (int64_t first = 0; first < rows.count; first += R) {
    const Row* list = rows.list + first;
    const int64_t left = rows.count - first, used = left < R ? left : R;
    if (used < R) {
      // The last rows, repeated: pairs as pairs.
      for (int64_t i = 0; i < R; ++i) tail[i] = list[i < used ? i : used - S + i % S];
      list = tail;
    }
    if (rows.scattered && left >= 2 * R)
      for (int i = R; i < 2 * R; ++i)
        for (int v = 0; v < V; ++v) __builtin_prefetch(rows.out + list[i].out + v * kLanes, 1);
    multiply_tile<V, P, S>(panel, rows, list, used);
  }
}

// Channels go in panels of kMaxVectors vectors, the last ones in powers of two.
L1BN_INLINE int panel_vectors(int64_t vectors_left) {
  if (vectors_left >= 4 && kMaxVectors >= 4) return 4;
  return vectors_left >= 2 ? 2 : 1;
}

L1BN_INLINE void multiply(int vectors, const Panel& panel, const Rows& rows) {
#if defined(__AVX512BW__)
  if (vectors == 4) return multiply_rows<4, 6, 1>(panel, rows);
  if (vectors == 2) return multiply_rows<2, 8, 1>(panel, rows);
  // One vector: reading `right` is a load in nine, so let more rows share it.
  if (rows.pair && rows.count > 8) return multiply_rows<1, 8, 2>(panel, rows);
  multiply_rows<1, 8, 1>(panel, rows);
#elif defined(__AVX2__)
  if (vectors == 2) return multiply_rows<2, 6, 1>(panel, rows);
  multiply_rows<1, 8, 1>(panel, rows);
#else
  if (vectors == 2) return multiply_rows<2, 4, 1>(panel, rows);
  multiply_rows<1, 4, 1>(panel, rows);
#endif
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
