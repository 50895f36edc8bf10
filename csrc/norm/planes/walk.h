// Walking the planes of a channel: blocks of a plane, chunks of sixteen elements, tails.
#pragma once
#include "norm/part.h"

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

// The last sixteen elements of a span; the lanes that an earlier chunk had do not count again.
struct Overlap : Full {
  unsigned mask;
  explicit Overlap(int64_t rest)
      : mask(rest < kLanes ? 0xffffu << (kLanes - rest) & 0xffffu : 0xffffu) {}
  template <class A>
  L1BN_INLINE Pack<A> keep(const Pack<A>& a) const {
    return choose(mask, a, Pack<A>::all(0));
  }
  // `a` in the lanes that no earlier chunk had, `old` in the others.
  template <class A>
  L1BN_INLINE Pack<A> fresh(const Pack<A>& a, const Pack<A>& old) const {
    return choose(mask, a, old);
  }
};

// Every second one of the 32 elements that two chunks hold: 16-bit ones take one instruction then.
// For sums, which do not care about the order.
struct Even : Full {
  template <class T>
  L1BN_INLINE Pack<Acc<T>> get(const T* p) const {
    return load_even(p);
  }
};
struct Odd : Full {
  template <class T>
  L1BN_INLINE Pack<Acc<T>> get(const T* p) const {
    return load_odd(p - kLanes);
  }
};

// f(how, position, chunk, Index) over at least sixteen elements. Two independent accumulators hide
// the latency of an addition.
template <class First = Full, class Second = Full, class F>
L1BN_INLINE void for_chunks(int64_t length, F&& f) {
  int64_t i = 0, chunk = 0;
  for (; i + 2 * kLanes <= length; i += 2 * kLanes, chunk += 2) {
    f(First{}, i, chunk, Index<0>{});
    f(Second{}, i + kLanes, chunk + 1, Index<1>{});
  }
  for (; i < length; i += kLanes, ++chunk) {
    const int64_t rest = length - i;
    f(Overlap{rest}, rest < kLanes ? length - kLanes : i, chunk, Index<0>{});
  }
}

// The same for sums, where an element's place does not matter.
template <class F>
L1BN_INLINE void for_any_order(int64_t length, F&& f) {
  for_chunks<Even, Odd>(length, f);
}

template <class A>
struct Two {
  Pack<A> part[2] = {Pack<A>::all(0), Pack<A>::all(0)};
  L1BN_INLINE Pack<A> total() const { return part[0] + part[1]; }
};

// Elements of each plane between two flushes of single-precision sums into double.
L1BN_INLINE int64_t planes_per_flush(int64_t inner) { return inner < kBlock ? kBlock / inner : 1; }

// f(offset, length) over the blocks of a stretch.
template <class F>
L1BN_INLINE void for_blocks(int64_t length, F&& f) {
  for (int64_t offset = 0; offset < length;) {
    const int64_t left = length - offset, block = left < kLongestBlock ? left : kBlock;
    f(offset, block);
    offset += block;
  }
}

// A range of blocks of a plane set (outer x inner), walked forwards or backwards. Backwards after
// forwards finds the last planes still in the cache.
struct Share {
  int64_t first, last;  // in blocks
  int64_t per_plane, inner;

  static Share of(int64_t outer, int64_t inner, int index, int size) {
    const int64_t per_plane = (inner + kBlock - kLanes) / kBlock, blocks = outer * per_plane;
    return {blocks * index / size, blocks * (index + 1) / size, per_plane, inner};
  }

  // f(plane, offset, length): what is ours of each plane.
  template <class F>
  L1BN_INLINE void walk(bool backwards, F&& f) const {
    if (first >= last) return;
    const int64_t low = first / per_plane, high = (last - 1) / per_plane;
    for (int64_t i = low; i <= high; ++i) {
      const int64_t plane = backwards ? low + high - i : i;
      const int64_t begin = plane == low ? first % per_plane * kBlock : 0;
      const int64_t end = plane == high && last % per_plane ? last % per_plane * kBlock : inner;
      f(plane, begin, end - begin);
    }
  }
};

// Sums of one member for each channel of a batch: sixteen single-precision lanes, moved into double
// before they lose digits.
template <class A>
struct Sums {
  Pack<A>* recent;
  Wide* total;
  int64_t channels;

  void clear() const {
    for (int64_t i = 0; i < channels; ++i) {
      recent[i] = Pack<A>::all(0);
      total[i].clear();
    }
  }
  L1BN_INLINE void flush(int64_t i) const {
    total[i].add(recent[i]);
    recent[i] = Pack<A>::all(0);
  }
  void flush() const {
    for (int64_t i = 0; i < channels; ++i) flush(i);
  }
};

// Output: straight to memory, or staged in the first-level cache and streamed past the others where
// the whole output would not stay in them anyway.
template <class T>
class Stage {
 public:
  explicit Stage(bool streaming) : streaming_(streaming) {}
  L1BN_INLINE T* begin(T* target, int64_t length) {
    if (!streaming_) return target;
    if (target != target_ + used_ || used_ + length > kLongestBlock) {
      flush();
      target_ = target;
    }
    T* to = staged_ + used_;
    used_ += length;
    return to;
  }
  ~Stage() {
    if (!streaming_) return;
    flush();
    stream_fence();
  }

 private:
  void flush() {
    if (!used_) return;
    stream_copy(reinterpret_cast<char*>(target_), reinterpret_cast<const char*>(staged_),
                used_ * int64_t(sizeof(T)));
    used_ = 0;
  }

  bool streaming_;
  T* target_ = nullptr;
  int64_t used_ = 0;
  alignas(64) T staged_[kLongestBlock];
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
