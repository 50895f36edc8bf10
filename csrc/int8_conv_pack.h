// Bringing int8 tensors into the forms that the inner loop reads.
#pragma once
#include <stdlib.h>

#include "int8_conv_dot.h"

namespace l1bn {
namespace int8_conv {
namespace L1BN_ISA {

L1BN_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
L1BN_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
L1BN_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
L1BN_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

constexpr int64_t kCacheLine = 64;

// Memory for a call. `data` is null where there is none.
template <class T>
struct Array {
  T* data = nullptr;

  explicit Array(int64_t count) {
    void* memory = nullptr;
    const size_t bytes = (size_t)round_up(max_of(count, 1) * (int64_t)sizeof(T), kCacheLine);
    if (posix_memalign(&memory, kCacheLine, bytes) == 0) data = static_cast<T*>(memory);
  }
  ~Array() { free(data); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
};

L1BN_INLINE void copy_shifted(A* out, const int8_t* in, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = (A)(in[i] + kShift);
}

L1BN_INLINE void fill_shift(A* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = (A)kShift;
}

// Pixels of `channels` numbers each become pixels of whole groups.
inline void copy_pixels(A* out, const int8_t* in, int64_t pixels, int64_t channels) {
  if (channels % kGroup == 0) return copy_shifted(out, in, pixels * channels);
  const int64_t padded = round_up(channels, kGroup);
  for (int64_t i = 0; i < pixels; ++i) {
    for (int64_t c = 0; c < channels; ++c) out[i * padded + c] = (A)(in[i * channels + c] + kShift);
    for (int64_t c = channels; c < padded; ++c) out[i * padded + c] = (A)kShift;
  }
}

// out[i][j] = rows[j][i] + shift: kGroup rows become one row of groups.
template <int kAdd, class T>
L1BN_INLINE void interleave(T* __restrict out, const int8_t* const rows[kGroup], int64_t count) {
  const int8_t* const first = rows[0];
  const int8_t* const second = rows[1];
  if (kGroup == 2) {
    for (int64_t i = 0; i < count; ++i) {
      out[2 * i] = (T)(first[i] + kAdd);
      out[2 * i + 1] = (T)(second[i] + kAdd);
    }
    return;
  }
  const int8_t* const third = rows[kGroup - 2];
  const int8_t* const fourth = rows[kGroup - 1];
  for (int64_t i = 0; i < count; ++i) {
    out[4 * i] = (T)(first[i] + kAdd);
    out[4 * i + 1] = (T)(second[i] + kAdd);
    out[4 * i + 2] = (T)(third[i] + kAdd);
    out[4 * i + 3] = (T)(fourth[i] + kAdd);
  }
}

// One group of input channels of `lanes` outputs: out[lane][j] = w[lane * output_step + j * input_step].
inline void pack_weights(B* out, const int8_t* w, int64_t outputs, int64_t lanes, int64_t inputs,
                         int64_t output_step, int64_t input_step) {
  memset(out, 0, (size_t)(lanes * kGroup) * sizeof(B));
  if (inputs == kGroup && output_step == 1) {
    const int8_t* rows[kGroup];
    for (int j = 0; j < kGroup; ++j) rows[j] = w + j * input_step;
    return interleave<0>(out, rows, outputs);
  }
  for (int64_t lane = 0; lane < outputs; ++lane)
    for (int64_t j = 0; j < inputs; ++j)
      out[lane * kGroup + j] = w[lane * output_step + j * input_step];
}

}  // namespace L1BN_ISA
}  // namespace int8_conv
}  // namespace l1bn
