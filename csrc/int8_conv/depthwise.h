// Convolutions of one channel each: every channel has a kernel of its own.
//
// There is nothing to multiply as a matrix. Lanes run over channels; a result is the sum over the
// few taps that meet the image. What meets what is listed once, for rows and for columns.
#pragma once
#include "common/parallel.h"
#include "common/plan.h"
#include "int8_conv/panels.h"

namespace l1bn {
namespace int8_conv {
namespace L1BN_ISA {

typedef int8_t Bytes __attribute__((vector_size(kLanes)));
typedef int16_t Shorts __attribute__((vector_size(2 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Sums __attribute__((vector_size(4 * kLanes)));

L1BN_INLINE Shorts load_shorts(const int8_t* p) {
  Bytes v;
  memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Shorts);
}
// A product of two bytes fits 16 bits; sums are taken modulo 2^32.
L1BN_INLINE Sums products(const int8_t* a, const int8_t* b) {
  return Sums(__builtin_convertvector(load_shorts(a) * load_shorts(b), Ints));
}

// Source row (or column) and tap that a result meets.
struct Meeting {
  int64_t source, tap;
};

// What each result row (or column) meets.
class Meetings {
 public:
  Meetings(int64_t results, int64_t taps) : first_(results + 1), list_(results * taps) {}
  bool failed() const { return !first_.data || !list_.data; }

  // `place` says where result `i` meets tap `k`, or a negative number.
  template <class F>
  void fill(int64_t results, int64_t taps, int64_t sources, F place) {
    int64_t count = 0;
    for (int64_t i = 0; i < results; ++i) {
      first_.data[i] = count;
      for (int64_t k = 0; k < taps; ++k) {
        const int64_t at = place(i, k);
        if (at >= 0 && at < sources) list_.data[count++] = {at, k};
      }
    }
    first_.data[results] = count;
  }
  const Meeting* begin(int64_t i) const { return list_.data + first_.data[i]; }
  const Meeting* end(int64_t i) const { return list_.data + first_.data[i + 1]; }

 private:
  Array<int64_t> first_;
  Array<Meeting> list_;
};

struct Near {
  const int8_t *source, *weight;
};

// Sums of all channels of one pixel.
inline void sum_pixel(int32_t* out, const Near* near, int64_t taps, int64_t channels,
                      uint32_t* peak) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    Sums sum = {};
    for (int64_t t = 0; t < taps; ++t) sum += products(near[t].source + c, near[t].weight + c);
    memcpy(out + c, &sum, sizeof sum);
    store(peak + c, raise(load(peak + c), Vec(sum)));
  }
  for (; c < channels; ++c) {
    uint32_t sum = 0;
    for (int64_t t = 0; t < taps; ++t) sum += uint32_t(near[t].source[c] * near[t].weight[c]);
    out[c] = int32_t(sum);
    const uint32_t size = sum > uint32_t(INT32_MAX) ? 0u - sum : sum;
    peak[c] = size > peak[c] ? size : peak[c];
  }
}

// The forward pass, and the input gradient.
class DepthwiseSums {
 public:
  struct Image {
    int64_t height, width;
  };
  Meetings rows, cols;  // filled before `run`

  DepthwiseSums(const l1bn_int8_conv_problem& problem, Image source, Image result)
      : rows(result.height, problem.kernel_height),
        cols(result.width, problem.kernel_width),
        p_(problem),
        source_(source),
        result_(result),
        taps_(problem.kernel_height * problem.kernel_width),
        weights_(taps_ * problem.channels),
        near_(taps_ * problem.threads),
        peaks_(problem.threads * round_up(problem.channels, kLanes)) {}

  bool failed() const {
    return rows.failed() || cols.failed() || !weights_.data || !near_.data || !peaks_.data;
  }

  int64_t run(const int8_t* source, const int8_t* w, int32_t* result, int32_t* peak) {
    const int64_t channels = p_.channels, width = round_up(channels, kLanes);
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t t = 0; t < taps_; ++t) weights_.data[t * channels + c] = w[c * taps_ + t];
    memset(peaks_.data, 0, size_t(p_.threads * width) * sizeof(uint32_t));
    expect_large(result,
                 p_.images * result_.height * result_.width * channels * int64_t(sizeof(int32_t)));
    const int64_t lines = p_.images * result_.height;
    auto work = [&](Team team) {
      const int64_t end = lines * (team.index + 1) / team.size;
      for (int64_t line = lines * team.index / team.size; line < end; ++line)
        sum_line(line, source, result + line * result_.width * channels,
                 near_.data + team.index * taps_, peaks_.data + team.index * width);
    };
    parallel_run(int(p_.threads), work);
    for (int64_t c = 0; peak && c < channels; ++c) {
      uint32_t largest = 0;
      for (int64_t t = 0; t < p_.threads; ++t)
        largest = peaks_.data[t * width + c] > largest ? peaks_.data[t * width + c] : largest;
      peak[c] = largest > uint32_t(INT32_MAX) ? INT32_MAX : int32_t(largest);
    }
    return 0;
  }

 private:
  const l1bn_int8_conv_problem& p_;
  const Image source_, result_;
  const int64_t taps_;
  Array<int8_t> weights_;  // [taps][channels]
  Array<Near> near_;
  Array<uint32_t> peaks_;

  void sum_line(int64_t line, const int8_t* source, int32_t* result, Near* near,
                uint32_t* peak) const {
    const int64_t channels = p_.channels, image = line / result_.height;
    const int64_t row = line % result_.height;
    for (int64_t col = 0; col < result_.width; ++col, result += channels) {
      int64_t taps = 0;
      for (const Meeting* y = rows.begin(row); y < rows.end(row); ++y) {
        const int8_t* from =
            source + (image * source_.height + y->source) * source_.width * channels;
        for (const Meeting* x = cols.begin(col); x < cols.end(col); ++x)
          near[taps++] = {from + x->source * channels,
                          weights_.data + (y->tap * p_.kernel_width + x->tap) * channels};
      }
      sum_pixel(result, near, taps, channels, peak);
    }
  }
};

// Sums over all pixels, for every tap and channel.
class DepthwiseWeightGradient {
 public:
  DepthwiseWeightGradient(const l1bn_int8_conv_weight_gradient_args& args, int64_t height,
                          int64_t width)
      : a_(args),
        p_(args.problem),
        height_(height),
        width_(width),
        taps_(p_.kernel_height * p_.kernel_width),
        sums_(p_.threads * taps_ * p_.channels) {}

  int64_t run() {
    if (!sums_.data) return L1BN_NO_MEMORY;
    const int64_t lines = p_.images * height_, size = taps_ * p_.channels;
    memset(sums_.data, 0, size_t(p_.threads * size) * sizeof(uint32_t));
    auto work = [&](Team team) {
      const int64_t end = lines * (team.index + 1) / team.size;
      for (int64_t line = lines * team.index / team.size; line < end; ++line)
        add_line(line, sums_.data + team.index * size);
    };
    parallel_run(int(p_.threads), work);
    for (int64_t c = 0; c < p_.channels; ++c)
      for (int64_t t = 0; t < taps_; ++t) {
        uint32_t sum = 0;
        for (int64_t i = 0; i < p_.threads; ++i) sum += sums_.data[i * size + t * p_.channels + c];
        a_.dw[c * taps_ + t] = int32_t(sum);
      }
    return 0;
  }

 private:
  const l1bn_int8_conv_weight_gradient_args& a_;
  const l1bn_int8_conv_problem& p_;
  const int64_t height_, width_, taps_;
  Array<uint32_t> sums_;  // [taps][channels] of each thread

  void add_line(int64_t line, uint32_t* sums) const {
    const int64_t image = line / height_, row = line % height_, channels = p_.channels;
    const int8_t* e = a_.e + line * width_ * channels;
    for (int64_t ky = 0; ky < p_.kernel_height; ++ky) {
      const int64_t y = row * p_.stride_down - p_.top + ky * p_.dilation_down;
      if (y < 0 || y >= p_.height) continue;
      const int8_t* x = a_.x + (image * p_.height + y) * p_.width * channels;
      for (int64_t kx = 0; kx < p_.kernel_width; ++kx) {
        const int64_t shift = kx * p_.dilation_across - p_.left, step = p_.stride_across;
        const int64_t first = shift < 0 ? ceil_div(-shift, step) : 0;
        const int64_t room = p_.width - shift;
        const int64_t last = room > 0 ? min_of(ceil_div(room, step), width_) : 0;
        if (first >= last) continue;
        add_tap(x + (first * step + shift) * channels, e + first * channels, last - first,
                sums + (ky * p_.kernel_width + kx) * channels);
      }
    }
  }

  void add_tap(const int8_t* x, const int8_t* e, int64_t pixels, uint32_t* sums) const {
    const int64_t channels = p_.channels, step = p_.stride_across * channels;
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      Sums sum;
      memcpy(&sum, sums + c, sizeof sum);
      for (int64_t i = 0; i < pixels; ++i) sum += products(x + i * step + c, e + i * channels + c);
      memcpy(sums + c, &sum, sizeof sum);
    }
    for (; c < channels; ++c)
      for (int64_t i = 0; i < pixels; ++i)
        sums[c] += uint32_t(x[i * step + c] * e[i * channels + c]);
  }
};

}  // namespace L1BN_ISA
}  // namespace int8_conv
}  // namespace l1bn
