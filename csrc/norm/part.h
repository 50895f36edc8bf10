// A pack out of memory and back: whole, or its first lanes where memory ends.
#pragma once
#include "norm/element.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

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
  template <class T>
  L1BN_INLINE void stream(T* p, const Pack<Acc<T>>& a) const {
    put_streaming(p, a);
  }
  template <class A>
  L1BN_INLINE Pack<A> keep(const Pack<A>& a) const {
    return a;
  }
  template <class A>
  L1BN_INLINE Pack<A> fresh(const Pack<A>& a, const Pack<A>&) const {
    return a;
  }
};

// The first lanes of a pack, where memory ends. Called once a span, and out of the way of its
// loops: what is copied in pieces makes the load that follows wait.
struct Part {
  int count;
  template <class T>
  __attribute__((noinline)) Pack<Acc<T>> get(const T* p) const {
    T padded[kLanes] = {};
    memcpy(padded, p, count * sizeof(T));
    return load(padded);
  }
  template <class T>
  __attribute__((noinline)) void put(T* p, const Pack<Acc<T>>& a) const {
    T padded[kLanes];
    store(padded, a);
    memcpy(p, padded, count * sizeof(T));
  }
  template <class T>
  L1BN_INLINE void stream(T* p, const Pack<Acc<T>>& a) const {
    put(p, a);
  }
  template <class A>
  L1BN_INLINE Pack<A> keep(const Pack<A>& a) const {
    return choose((1u << count) - 1, a, Pack<A>::all(0));
  }
};

// f(how, element) over n elements: whole packs, and behind that loop the part that is left.
template <class F>
L1BN_INLINE void for_packs(int64_t n, F&& f) {
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) f(Full{}, i);
  if (whole < n) f(Part{int(n - whole)}, whole);
}

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
