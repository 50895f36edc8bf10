// Walking the planes of a channel: blocks of a plane, chunks of sixteen elements, tails.
#pragma once
#include "element.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

// Elements between two flushes of single-precision sums into double, and of a staged output. The
// last block of a plane takes in a rest of fewer than sixteen.
constexpr int64_t kBlock = 2048;
constexpr int64_t kLongestBlock = kBlock + kLanes;

template <int I>
struct Index {
  static constexpr int value = I;
};

struct Full {
  static constexpr unsigned mask = 0xffffu;
  template <class T>
  L1BN_INLINE Pack<Acc<T>> get(const T* p) const {
    return load(p);
  }
  template <class T>
  L1BN_INLINE void put(T* p, const Pack<Acc<T>>& a) const {
    store(p, a);
  }
  template <class A>
  L1BN_INLINE Pack<A> keep(const Pack<A>& a) const {
    return a;
  }
};

// The last sixteen elements of a span; the lanes that an earlier chunk had do not count again.
struct Overlap : Full {
  unsigned mask;
  explicit Overlap(int64_t rest)
      : mask(rest < kLanes ? 0xffffu << (kLanes - rest) & 0xffffu : 0xffffu) {}
  template <class A>
  L1BN_INLINE Pack<A> keep(const Pack<A>& a) const {
    return choose(mask, a, Pack<A>::all(0));
  }
};

// f(how, position, chunk, Index) over at least sixteen elements. Two independent accumulators hide
// the latency of an addition.
template <class F>
L1BN_INLINE void for_chunks(int64_t length, F&& f) {
  int64_t i = 0, chunk = 0;
  for (; i + 2 * kLanes <= length; i += 2 * kLanes, chunk += 2) {
    f(Full{}, i, chunk, Index<0>{});
    f(Full{}, i + kLanes, chunk + 1, Index<1>{});
  }
  for (; i < length; i += kLanes, ++chunk) {
    const int64_t rest = length - i;
    f(Overlap{rest}, rest < kLanes ? length - kLanes : i, chunk, Index<0>{});
  }
}

template <class A>
struct Two {
  Pack<A> part[2] = {Pack<A>::all(0), Pack<A>::all(0)};
  L1BN_INLINE Pack<A> total() const { return part[0] + part[1]; }
};

// A range of blocks of a plane set (outer x inner), walked forwards or backwards. Backwards after
// forwards finds the last blocks still in the cache.
struct Share {
  int64_t first, last;  // in blocks
  int64_t per_plane, inner;

  static Share of(int64_t outer, int64_t inner, int index, int size) {
    const int64_t per_plane = (inner + kBlock - kLanes) / kBlock, blocks = outer * per_plane;
    return {blocks * index / size, blocks * (index + 1) / size, per_plane, inner};
  }

  // f(plane, offset, length)
  template <class F>
  L1BN_INLINE void walk(bool backwards, F&& f) const {
    if (first >= last) return;
    const int64_t start = backwards ? last - 1 : first, step = backwards ? -1 : 1;
    int64_t plane = start / per_plane, block = start % per_plane;
    for (int64_t left = last - first; left > 0; --left) {
      const int64_t offset = block * kBlock;
      f(plane, offset, block + 1 < per_plane ? kBlock : inner - offset);
      block += step;
      if (block < 0) {
        block = per_plane - 1;
        --plane;
      } else if (block == per_plane) {
        block = 0;
        ++plane;
      }
    }
  }
};

// Output of one block: straight to memory, or staged in the first-level cache and streamed past
// the others where the whole output would not stay in them anyway.
template <class T>
class Stage {
 public:
  explicit Stage(bool streaming) : streaming_(streaming) {}
  T* begin(T* target) {
    target_ = target;
    return streaming_ ? staged_ : target;
  }
  void end(int64_t length) {
    if (streaming_)
      stream_copy(reinterpret_cast<char*>(target_), reinterpret_cast<const char*>(staged_),
                  length * (int64_t)sizeof(T));
  }
  ~Stage() {
    if (streaming_) stream_fence();
  }

 private:
  bool streaming_;
  T* target_ = nullptr;
  alignas(64) T staged_[kLongestBlock];
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
