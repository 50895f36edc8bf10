// What both layouts share per channel: parameters, statistics, and the coefficients of a pass.
#pragma once
#include <math.h>
#include <stdlib.h>

#include "common/parallel.h"
#include "norm/element.h"
#include "norm/interface.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

constexpr double kRoot = 1.2533141373155002512;  // sqrt(pi / 2)

__attribute__((noinline)) inline double read_narrow_or_wide(const void* vector, int64_t dtype,
                                                            int64_t i) {
  if (dtype == L1BN_F64) return static_cast<const double*>(vector)[i];
  if (dtype == L1BN_BF16) return value_of(static_cast<const BFloat16*>(vector) + i);
  return value_of(static_cast<const Half*>(vector) + i);
}

L1BN_INLINE double read_param(const void* vector, int64_t dtype, int64_t i, double missing) {
  if (!vector) return missing;
  if (dtype == L1BN_F32) return static_cast<const float*>(vector)[i];
  return read_narrow_or_wide(vector, dtype, i);
}

__attribute__((noinline)) inline void write_param(void* vector, int64_t dtype, int64_t i,
                                                  double value) {
  if (dtype == L1BN_F64)
    static_cast<double*>(vector)[i] = value;
  else if (dtype == L1BN_F32)
    static_cast<float*>(vector)[i] = float(value);
  else if (dtype == L1BN_BF16)
    store_one(static_cast<BFloat16*>(vector) + i, float(value));
  else
    store_one(static_cast<Half*>(vector) + i, float(value));
}

// sqrt(eps) as the statistics' type sees it: forward and backward must agree on "floored".
template <class A>
A scale_floor(double eps) {
  return A(sqrt(eps));
}

// The activations that are a range of z; norm/curve.h has the others.
inline bool clips(int64_t activation) {
  return activation == L1BN_RELU || activation == L1BN_RELU6;
}

inline bool bends(int64_t activation) { return activation > L1BN_RELU6; }

// The residual, where backward reads it: under an activation, to recover x from y, or z from x.
inline const void* backward_residual(const l1bn_backward_args& a) {
  const int64_t activation = a.problem.activation;
  return activation == L1BN_NONE || (a.x && clips(activation)) ? nullptr : a.residual;
}

template <class A>
void activation_range(int64_t activation, A* low, A* high) {
  const A inf = A(__builtin_inf());
  *low = clips(activation) ? A(0) : -inf;
  *high = activation == L1BN_RELU6 ? A(6) : inf;
}

// Where its gradient passes: low < y, and not y >= high. NaN, which nothing reaches, lets an
// infinite output of ReLU pass one too.
template <class A>
void gradient_range(int64_t activation, A* low, A* high) {
  activation_range(activation, low, high);
  if (activation != L1BN_RELU6) *high = A(__builtin_nan(""));
}

// Mean and scale of one channel; a NaN passes through the floor.
template <class A>
A scale_of(double absolute_sum, double count, double eps) {
  const A scale = A(kRoot * absolute_sum / count);
  const A floor = scale_floor<A>(eps);
  return scale <= floor ? floor : scale;
}

// The mean as a sum of two numbers: near a large mean one float cannot tell on which side of it a
// value lies.
template <class A>
void split_mean(double mean, A* high, A* low) {
  *high = A(mean);
  *low = A(mean - double(*high));
}

// beta, less what is left of the mean, so that y = (x - high) * slope + shift.
template <class A, class Args>
A shift_of(const Args& a, int64_t c, double gamma, A low, A scale) {
  return A(read_param(a.bias, a.problem.param_dtype, c, 0) - double(low) * gamma / double(scale));
}

// Smallest normal number of an element type: below it y loses digits, and so does what is read
// back.
template <class T>
constexpr double kTiny = 1.1754943508222875e-38;
template <>
constexpr double kTiny<Half> = 6.103515625e-05;
template <>
constexpr double kTiny<double> = 2.2250738585072014e-308;

// Whether x can be read back from y (a channel at the floor, where |x_hat| is small, cannot):
// |bias| and the residual must not drown weight * x_hat. False for a zero or a NaN.
template <class T>
bool recoverable(double weight, double bias, double residual_max, double limit,
                 const l1bn_problem& p) {
  // A flat activation makes y smaller than z.
  const bool flat = bends(p.activation) && p.parameter < 1;
  const double tiny = flat ? kTiny<T> / p.parameter : kTiny<T>;
  return fabs(bias) + residual_max + tiny <= limit * fabs(weight);
}

// dx = slope * g + (bit ? above : below), equation (8) with everything per channel folded in.
template <class A>
struct Slope {
  A slope, above, below;
};

template <class A>
Slope<A> slope_of(double weight, double scale, double count, double grad_sum, double grad_weight,
                  double positive, double eps, bool frozen) {
  const double slope = weight / scale;
  if (frozen) return {A(slope), A(0), A(0)};
  const bool live = A(scale) > scale_floor<A>(eps);
  const double through = live ? kRoot * grad_weight / count : 0.0;
  const double mean_bit = 2 * positive / count - 1;
  const double base = grad_sum / count;
  return {A(slope), A(-slope * (base + through * (1 - mean_bit))),
          A(-slope * (base + through * (-1 - mean_bit)))};
}

// gamma's gradient from its sum; NaN where sigma is, though the activation passed nothing on.
inline double grad_weight_of(double product, double divisor, double sigma) {
  return sigma == sigma ? product / divisor : sigma;
}

// Memory of a call, freed with it.
template <class V>
class Buffer {
 public:
  explicit Buffer(size_t count) {
    if (count && posix_memalign(&raw_, 64, count * sizeof(V))) raw_ = nullptr;
  }
  ~Buffer() { free(raw_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  V* get() const { return static_cast<V*>(raw_); }

 private:
  void* raw_ = nullptr;
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
