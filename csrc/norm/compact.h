// Elements that an activation let pass: counted, packed together and spread out again.
//
// One storage type per width: among positive IEEE numbers, and against negative ones and -0, the
// order is that of their bits as signed integers, and every NaN lies above infinity or below 0.
#pragma once
#include "common/parallel.h"
#include "norm/kernels.h"
#include "norm/simd.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

constexpr int64_t kAlivePerThread = 64 * 1024;  // elements; fewer are not worth a thread
constexpr int kAliveThreads = 256;

template <class T>
struct Range {
  T above;  // alive: 0 < y < above, as bits
  bool has(T y) const { return (y > 0) & (y < above); }
};

// Per dtype the bits of the number after infinity, and of 6.
Range<int16_t> alive_16(const l1bn_alive_args& a) {
  const bool brain = a.dtype == L1BN_BF16;
  if (a.activation == L1BN_RELU6) return {int16_t(brain ? 0x40C0 : 0x4600)};
  return {int16_t(brain ? 0x7F81 : 0x7C01)};
}
Range<int32_t> alive_32(const l1bn_alive_args& a) {
  return {a.activation == L1BN_RELU6 ? 0x40C00000 : 0x7F800001};
}
Range<int64_t> alive_64(const l1bn_alive_args& a) {
  return {a.activation == L1BN_RELU6 ? 0x4018000000000000 : 0x7FF0000000000001};
}

#if defined(L1BN_AVX512)
constexpr bool kCopiesAhead = false;  // whether unpack() must know how much there is to read

// A vector of elements in 32 or 64-bit lanes. Loads and stores take the first `count` lanes only.
template <class T>
struct Lanes;

template <>
struct Lanes<int32_t> {
  static constexpr int kCount = 16;
  __m512i v;
  static unsigned first(int count) { return (1u << count) - 1; }
  static L1BN_INLINE Lanes load(const int32_t* p, int count) {
    return {_mm512_maskz_loadu_epi32(__mmask16(first(count)), p)};
  }
  L1BN_INLINE void store(int32_t* p, int count) const {
    _mm512_mask_storeu_epi32(p, __mmask16(first(count)), v);
  }
  L1BN_INLINE unsigned within(Range<int32_t> range) const {
    const __mmask16 positive = _mm512_cmpgt_epi32_mask(v, _mm512_setzero_si512());
    return _mm512_mask_cmplt_epi32_mask(positive, v, _mm512_set1_epi32(range.above));
  }
  L1BN_INLINE Lanes packed(unsigned alive) const {
    return {_mm512_maskz_compress_epi32(__mmask16(alive), v)};
  }
  L1BN_INLINE Lanes spread(unsigned alive) const {
    return {_mm512_maskz_expand_epi32(__mmask16(alive), v)};
  }
};

// Widened: compressing 16-bit lanes themselves takes instructions that not every CPU with AVX-512
// has.
template <>
struct Lanes<int16_t> {
  static constexpr int kCount = 16;
  Lanes<int32_t> wide;
  static L1BN_INLINE Lanes load(const int16_t* p, int count) {
    const __mmask16 first = __mmask16(Lanes<int32_t>::first(count));
    return {{_mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(first, p))}};
  }
  L1BN_INLINE void store(int16_t* p, int count) const {
    const __mmask16 first = __mmask16(Lanes<int32_t>::first(count));
    _mm256_mask_storeu_epi16(p, first, _mm512_cvtepi32_epi16(wide.v));
  }
  L1BN_INLINE unsigned within(Range<int16_t> range) const {
    return wide.within(Range<int32_t>{range.above});
  }
  L1BN_INLINE Lanes packed(unsigned alive) const { return {wide.packed(alive)}; }
  L1BN_INLINE Lanes spread(unsigned alive) const { return {wide.spread(alive)}; }
};

template <>
struct Lanes<int64_t> {
  static constexpr int kCount = 8;
  __m512i v;
  static L1BN_INLINE Lanes load(const int64_t* p, int count) {
    return {_mm512_maskz_loadu_epi64(__mmask8((1u << count) - 1), p)};
  }
  L1BN_INLINE void store(int64_t* p, int count) const {
    _mm512_mask_storeu_epi64(p, __mmask8((1u << count) - 1), v);
  }
  L1BN_INLINE unsigned within(Range<int64_t> range) const {
    const __mmask8 positive = _mm512_cmpgt_epi64_mask(v, _mm512_setzero_si512());
    return _mm512_mask_cmplt_epi64_mask(positive, v, _mm512_set1_epi64(range.above));
  }
  L1BN_INLINE Lanes packed(unsigned alive) const {
    return {_mm512_maskz_compress_epi64(__mmask8(alive), v)};
  }
  L1BN_INLINE Lanes spread(unsigned alive) const {
    return {_mm512_maskz_expand_epi64(__mmask8(alive), v)};
  }
};

// f(position, lanes, mask of those alive) over n elements.
template <class T, class F>
L1BN_INLINE void for_alive(const T* y, int64_t n, Range<T> range, F&& f) {
  constexpr int wide = Lanes<T>::kCount;
  for (int64_t i = 0; i < n; i += wide) {
    const int lanes = n - i < wide ? int(n - i) : wide;
    f(i, lanes, Lanes<T>::load(y + i, lanes).within(range));
  }
}

template <class T>
int64_t count(const T* y, int64_t n, Range<T> range) {
  int64_t total = 0;
  for_alive(y, n, range, [&](int64_t, int, unsigned alive) { total += __builtin_popcount(alive); });
  return total;
}

template <class T>
void pack(const T* y, const T* from, T* to, int64_t n, Range<T> range) {
  for_alive(y, n, range, [&](int64_t i, int lanes, unsigned alive) {
    const int some = __builtin_popcount(alive);
    Lanes<T>::load(from + i, lanes).packed(alive).store(to, some);
    to += some;
  });
}

// The dead ones become 0.
template <class T>
void unpack(const T* y, const T* from, T* to, int64_t n, int64_t, Range<T> range) {
  for_alive(y, n, range, [&](int64_t i, int lanes, unsigned alive) {
    const int some = __builtin_popcount(alive);
    Lanes<T>::load(from, some).spread(alive).store(to + i, lanes);
    from += some;
  });
}
#else
constexpr bool kCopiesAhead = true;
constexpr int64_t kAliveBlock = 512;  // elements on the stack, so that no store overruns

template <class T>
int64_t count(const T* y, int64_t n, Range<T> range) {
  int64_t total = 0;
  for (int64_t i = 0; i < n; i += kAliveBlock) {
    const int64_t end = i + kAliveBlock < n ? i + kAliveBlock : n;
    T some = 0;
    for (int64_t j = i; j < end; ++j) some = T(some + range.has(y[j]));
    total += some;
  }
  return total;
}

template <class T>
void pack(const T* y, const T* from, T* to, int64_t n, Range<T> range) {
  T block[kAliveBlock + 1];
  for (int64_t i = 0; i < n; i += kAliveBlock) {
    const int64_t end = i + kAliveBlock < n ? i + kAliveBlock : n;
    int64_t k = 0;
    for (int64_t j = i; j < end; ++j) {
      block[k] = from[j];
      k += range.has(y[j]);
    }
    memcpy(to, block, size_t(k) * sizeof(T));
    to += k;
  }
}

// `left`: elements of `from`. The dead ones become 0.
template <class T>
void unpack(const T* y, const T* from, T* to, int64_t n, int64_t left, Range<T> range) {
  T block[kAliveBlock + 1] = {};
  for (int64_t i = 0; i < n; i += kAliveBlock) {
    const int64_t end = i + kAliveBlock < n ? i + kAliveBlock : n;
    memcpy(block, from, size_t(left < kAliveBlock ? left : kAliveBlock) * sizeof(T));
    int64_t k = 0;
    for (int64_t j = i; j < end; ++j) {
      const T is = range.has(y[j]);
      to[j] = T(block[k] & -is);  // no branch: it would be guessed wrong half of the time
      k += is;
    }
    from += k;
    left -= k;
  }
}
#endif

template <class T>
int64_t alive_as(const l1bn_alive_args& a, Range<T> range, Alive what) {
  const T* y = static_cast<const T*>(a.y);
  const T* from = static_cast<const T*>(a.from);
  T* to = static_cast<T*>(a.to);
  const int64_t worth = a.elements / kAlivePerThread;
  const int64_t useful = worth < a.threads ? worth : a.threads;
  const int threads = int(useful < 1 ? 1 : useful > kAliveThreads ? kAliveThreads : useful);
  int64_t counts[kAliveThreads] = {};  // the runtime may give fewer threads than asked for
  auto body = [&](Team team) {
    const int64_t first = a.elements * team.index / team.size;
    const int64_t n = a.elements * (team.index + 1) / team.size - first;
    const bool counted = what == kCount || team.size > 1 || (what == kUnpack && kCopiesAhead);
    if (counted) counts[team.index] = count(y + first, n, range);
    if (what == kCount) return;
    team.wait();
    int64_t before = 0;
    for (int i = 0; i < team.index; ++i) before += counts[i];
    if (what == kPack)
      pack(y + first, from + first, to + before, n, range);
    else
      unpack(y + first, from + before, to + first, n, counts[team.index], range);
  };
  parallel_run(threads, body);
  int64_t total = 0;
  for (int i = 0; what == kCount && i < threads; ++i) total += counts[i];
  return total;
}

int64_t run_alive(const l1bn_alive_args& a, Alive what) {
  switch (a.dtype) {
    case L1BN_F32:
      return alive_as(a, alive_32(a), what);
    case L1BN_F64:
      return alive_as(a, alive_64(a), what);
    case L1BN_BF16:
    case L1BN_F16:
      return alive_as(a, alive_16(a), what);
    default:
      return L1BN_BAD_DTYPE;
  }
}

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
