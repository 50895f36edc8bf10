// How a kernel walks a tensor of rows of channels.
//
// Rows are taken in groups of `width` elements, the smallest multiple of the channel count that
// whole vectors fill: lane l of a group belongs to channel l % channels. Per-channel constants and
// sums are arrays of `width`. Rows that fill no group are computed lane by lane.
#pragma once
#include <stdlib.h>

#include "common/parallel.h"
#include "int8_norm/vectors/simd.h"

namespace l1bn {
namespace int8_norm {
namespace L1BN_ISA {
namespace {

constexpr int64_t kPerThread = 32768;  // elements that are worth a thread
constexpr int64_t kTile = 2048;        // elements that a tile's columns share in the first cache
constexpr int64_t kDepth = 255;        // rows that 16-bit sums of 8-bit numbers hold

L1BN_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
L1BN_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

inline int64_t divisor(int64_t a, int64_t b) {
  while (b) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

inline int64_t group_width(int64_t channels, int64_t lanes) {
  return channels / divisor(channels, lanes) * lanes;
}

inline int useful_threads(int64_t elements, int64_t threads) {
  return static_cast<int>(most(1, least(threads, elements / kPerThread)));
}

struct Span {
  int64_t begin, end;
};
L1BN_INLINE Span share(int64_t count, Team team) {
  return {count * team.index / team.size, count * (team.index + 1) / team.size};
}

// Call kernel.column<V>(place, lane, rows, stride) for every column of lanes of this member's rows.
template <class V, class Kernel>
void sweep(Kernel& kernel, int64_t rows, int64_t channels, Team team) {
  const int64_t width = group_width(channels, kLanes<V>), repeat = width / channels;
  const int64_t groups = rows / repeat, rest = rows - groups * repeat;
  const int64_t tile = most(1, least(kDepth, kTile / width));
  const Span span = share(groups, team);
  for (int64_t group = span.begin; group < span.end; group += tile) {
    const int64_t depth = least(tile, span.end - group);
    for (int64_t lane = 0; lane < width; lane += kLanes<V>)
      kernel.template column<V>(group * width + lane, lane, depth, width);
  }
  if (rest && team.index == team.size - 1)
    for (int64_t c = 0; c < channels; ++c)
      kernel.template column<int32_t>(groups * width + c, c, rest, channels);
}

// One block of memory, handed out in aligned arrays.
class Scratch {
 public:
  explicit Scratch(int64_t bytes)
      : block_(static_cast<char*>(aligned_alloc(64, (bytes + 64) / 64 * 64))), next_(block_) {}
  ~Scratch() { free(block_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  bool failed() const { return !block_; }
  template <class T>
  T* take(int64_t count) {
    T* out = reinterpret_cast<T*>(next_);
    next_ += bytes<T>(count);
    return out;
  }
  // What take() uses.
  template <class T>
  static int64_t bytes(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }

 private:
  char *block_, *next_;
};

// Repeat a channel's constant over the lanes of a group.
template <class T>
L1BN_INLINE void expand(T* lanes, int64_t width, int64_t channels, int64_t channel, T value) {
  for (int64_t lane = channel; lane < width; lane += channels) lanes[lane] = value;
}

// Sum a channel's lanes over the members' partial sums.
L1BN_INLINE int64_t fold(const int64_t* partial, int64_t width, int64_t channels, int64_t channel,
                         int members) {
  int64_t sum = 0;
  for (int64_t lane = channel; lane < width * members; lane += channels) sum += partial[lane];
  return sum;
}

}  // namespace
}  // namespace L1BN_ISA
}  // namespace int8_norm
}  // namespace l1bn
