// Elements that an activation let pass, packed together and spread out again.
//
// One storage type per width: among positive IEEE numbers, and against negative ones and -0, the
// order is that of their bits as signed integers, and every NaN lies above infinity or below 0.
#include <string.h>

#include "l1bn.h"
#include "parallel.h"

namespace l1bn {
namespace {

constexpr int64_t kBlock = 512;            // elements on the stack, so that no store overruns
constexpr int64_t kPerThread = 64 * 1024;  // fewer are not worth a thread
constexpr int kMaxThreads = 256;

template <class T>
struct Alive {
  T above;  // alive: 0 < y < above, as bits
  bool operator()(T y) const { return (y > 0) & (y < above); }
};

// Per dtype the bits of the number after infinity, and of 6.
Alive<int16_t> alive_16(const l1bn_alive_args& a) {
  const bool brain = a.dtype == L1BN_BF16;
  if (a.activation == L1BN_RELU6) return {(int16_t)(brain ? 0x40C0 : 0x4600)};
  return {(int16_t)(brain ? 0x7F81 : 0x7C01)};
}
Alive<int32_t> alive_32(const l1bn_alive_args& a) {
  return {a.activation == L1BN_RELU6 ? 0x40C00000 : 0x7F800001};
}
Alive<int64_t> alive_64(const l1bn_alive_args& a) {
  return {a.activation == L1BN_RELU6 ? 0x4018000000000000 : 0x7FF0000000000001};
}

template <class T>
int64_t count(const T* y, int64_t n, Alive<T> alive) {
  int64_t total = 0;
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t end = i + kBlock < n ? i + kBlock : n;
    T some = 0;
    for (int64_t j = i; j < end; ++j) some = (T)(some + alive(y[j]));
    total += some;
  }
  return total;
}

template <class T>
void pack(const T* y, const T* from, T* to, int64_t n, Alive<T> alive) {
  T block[kBlock + 1];
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t end = i + kBlock < n ? i + kBlock : n;
    int64_t k = 0;
    for (int64_t j = i; j < end; ++j) {
      block[k] = from[j];
      k += alive(y[j]);
    }
    memcpy(to, block, (size_t)k * sizeof(T));
    to += k;
  }
}

// `left`: elements of `from`. The dead ones become 0.
template <class T>
void unpack(const T* y, const T* from, T* to, int64_t n, int64_t left, Alive<T> alive) {
  T block[kBlock + 1] = {};
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t end = i + kBlock < n ? i + kBlock : n;
    memcpy(block, from, (size_t)(left < kBlock ? left : kBlock) * sizeof(T));
    int64_t k = 0;
    for (int64_t j = i; j < end; ++j) {
      const bool is = alive(y[j]);
      to[j] = is ? block[k] : (T)0;
      k += is;
    }
    from += k;
    left -= k;
  }
}

enum Direction { kPack, kUnpack };

template <class T>
int64_t move(const l1bn_alive_args& a, Alive<T> alive, Direction direction) {
  const T* y = static_cast<const T*>(a.y);
  const T* from = static_cast<const T*>(a.from);
  T* to = static_cast<T*>(a.to);
  const int64_t useful = a.elements / kPerThread < a.threads ? a.elements / kPerThread : a.threads;
  const int threads = (int)(useful < 1 ? 1 : useful > kMaxThreads ? kMaxThreads : useful);
  int64_t counts[kMaxThreads];
  auto body = [&](Team team) {
    const int64_t first = a.elements * team.index / team.size;
    const int64_t n = a.elements * (team.index + 1) / team.size - first;
    counts[team.index] = count(y + first, n, alive);
    team.wait();
    int64_t before = 0;
    for (int i = 0; i < team.index; ++i) before += counts[i];
    if (direction == kPack)
      pack(y + first, from + first, to + before, n, alive);
    else
      unpack(y + first, from + before, to + first, n, counts[team.index], alive);
  };
  parallel_run(threads, body);
  return 0;
}

int64_t move_any(const l1bn_alive_args& a, Direction direction) {
  switch (a.dtype) {
    case L1BN_F32:
      return move(a, alive_32(a), direction);
    case L1BN_F64:
      return move(a, alive_64(a), direction);
    case L1BN_BF16:
    case L1BN_F16:
      return move(a, alive_16(a), direction);
    default:
      return -1;
  }
}

}  // namespace
}  // namespace l1bn

extern "C" {

int64_t l1bn_count_alive(const l1bn_alive_args* a) {
  using namespace l1bn;
  switch (a->dtype) {
    case L1BN_F32:
      return count(static_cast<const int32_t*>(a->y), a->elements, alive_32(*a));
    case L1BN_F64:
      return count(static_cast<const int64_t*>(a->y), a->elements, alive_64(*a));
    case L1BN_BF16:
    case L1BN_F16:
      return count(static_cast<const int16_t*>(a->y), a->elements, alive_16(*a));
    default:
      return -1;
  }
}

int64_t l1bn_pack_alive(const l1bn_alive_args* a) { return l1bn::move_any(*a, l1bn::kPack); }

int64_t l1bn_unpack_alive(const l1bn_alive_args* a) { return l1bn::move_any(*a, l1bn::kUnpack); }

}  // extern "C"
