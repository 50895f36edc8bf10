// C interface of the integer kernels of 8-bit training: rescaling, L1 batch normalization forward
// and backward, scaled addition, SGD. Integers only; equal bit for bit to l1bn.fixed_point, whose
// files define what each call computes.
//
// A call takes one block of arguments in which every field is 8 bytes wide, as in
// norm/interface.h. Tensors
// are dense rows of channels, (rows, channels): channels_last images and (N, C). A real number is
// an integer times 2**exponent; exponents are the caller's. The counter of stochastic rounding is
// an element's place in memory.
//
// Calls return 0 or the number they document; an error is L1BN_ERROR or below, see
// common/status.h.
//
// Source of the method: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
#pragma once
#include "common/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define L1BN_INT8_API __attribute__((visibility("default")))

typedef struct {
  int64_t rows, channels, threads;
} l1bn_int8_shape;

typedef struct {
  int64_t stochastic;  // 0: to nearest, ties up
  uint64_t seed, stream;
} l1bn_int8_rounding;

typedef struct {
  l1bn_int8_shape shape;
  const int32_t* value;
  const int32_t* shift;  // one per channel, 0 to 31, or null: all_shift
  int64_t all_shift;
  int64_t bits;  // of the result, 2 to 8
  l1bn_int8_rounding rounding;
  int8_t* out;
} l1bn_int8_rescale_args;

L1BN_INT8_API int64_t l1bn_int8_rescale(const l1bn_int8_rescale_args* args);

typedef struct {
  l1bn_int8_shape shape;
  const int32_t* value;
} l1bn_int8_peak_args;

// Returns the largest magnitude.
L1BN_INT8_API int64_t l1bn_int8_peak(const l1bn_int8_peak_args* args);

// The numbers of l1bn.fixed_point.NormSpec.
typedef struct {
  int64_t width;  // bits of x, y, g, gamma, beta: 4 to 8
  int64_t mantissa_bits;
  int64_t pow2;  // sigma is a power of two
  int64_t shift_base;
  int64_t y_fraction;
  int64_t deviation_floor;
} l1bn_int8_spec;

// Scalars of a forward pass, one row of `channels` numbers each.
enum { L1BN_INT8_TOTAL, L1BN_INT8_ABOVE, L1BN_INT8_DEVIATION, L1BN_INT8_WIDE };  // of int64
enum {
  L1BN_INT8_THRESHOLD,
  L1BN_INT8_LIVE,
  L1BN_INT8_COEFFICIENT,
  L1BN_INT8_OFFSET,
  L1BN_INT8_SHIFT,
  L1BN_INT8_RECIPROCAL,  // exponent of 1/sigma
  L1BN_INT8_NARROW
};  // of int32

typedef struct {
  l1bn_int8_shape shape;
  l1bn_int8_spec spec;
  const int32_t* value;  // null, or what x is rescaled from (to nearest, `width` bits)
  const int32_t* value_shift;
  int64_t value_all_shift;
  int8_t* x;  // read, or written where there is a value
  const int8_t *gamma, *beta;
  const int8_t* residual;  // may be null
  int64_t relu;
  int8_t* y;
  int64_t* wide;    // (L1BN_INT8_WIDE, channels)
  int32_t* narrow;  // (L1BN_INT8_NARROW, channels)
} l1bn_int8_norm_forward_args;

// At least two rows.
L1BN_INT8_API int64_t l1bn_int8_norm_forward(const l1bn_int8_norm_forward_args* args);

typedef struct {
  l1bn_int8_shape shape;
  int64_t width;
  const int8_t* x;
  const int32_t *coefficient, *offset, *shift;  // shift from 1 to 30
  const int8_t* residual;                       // may be null
  int64_t relu;
  int8_t* y;
} l1bn_int8_norm_apply_args;

// y = relu(saturate(saturate((x * coefficient + offset) >> shift, to nearest) + residual)).
L1BN_INT8_API int64_t l1bn_int8_norm_apply(const l1bn_int8_norm_apply_args* args);

typedef struct {
  l1bn_int8_shape shape;
  const int8_t* x;
  const int32_t* threshold;  // one per channel, -128 to 128
  int64_t* sums;             // (3, channels): of x, the number at or above the threshold, theirs
} l1bn_int8_norm_sides_args;

L1BN_INT8_API int64_t l1bn_int8_norm_sides(const l1bn_int8_norm_sides_args* args);

typedef struct {
  l1bn_int8_shape shape;
  l1bn_int8_spec spec;
  // 0, or the statistics are constants, those of so many elements: of `wide` and `narrow`, total,
  // deviation, coefficient and shift are read.
  int64_t constant_count;
  const int8_t* g;
  const int8_t* y;  // output of a layer with a ReLU, or null: no mask
  const int8_t* x;
  const int64_t* wide;
  const int32_t* narrow;
  const int32_t* x_exponent;  // one per channel, or null: x_all_exponent
  int64_t x_all_exponent;
  int64_t g_exponent;
  int64_t bits;  // of dx, 2 to 8
  l1bn_int8_rounding rounding;
  int8_t* dx;
  int8_t* dresidual;  // g where y > 0, or null; overlaps no input
  int64_t *dgamma, *dbeta;
} l1bn_int8_norm_backward_args;

// Returns the exponent of dx.
L1BN_INT8_API int64_t l1bn_int8_norm_backward(const l1bn_int8_norm_backward_args* args);

typedef struct {
  int64_t count, threads;
  const int8_t *a, *b;
  int64_t a_exponent, b_exponent;
  int64_t bits;  // of the result, 2 to 8
  l1bn_int8_rounding rounding;
  int8_t* out;
} l1bn_int8_add_args;

// Returns the exponent of the sum.
L1BN_INT8_API int64_t l1bn_int8_add(const l1bn_int8_add_args* args);

enum { L1BN_INT8_GRADIENT_8, L1BN_INT8_GRADIENT_32, L1BN_INT8_GRADIENT_64 };

typedef struct {
  int64_t count, threads;
  int16_t *weight, *momentum;  // changed in place
  int64_t exponent, momentum_exponent;
  int64_t bits;  // of both, 2 to 16
  const void* gradient;
  int64_t gradient_type;
  int64_t gradient_exponent;
  int64_t rate, momentum_factor, decay, nesterov;
  l1bn_int8_rounding rounding;
} l1bn_int8_sgd_args;

// Returns the new exponent of the momentum. `exponent` is from -48 to 14.
L1BN_INT8_API int64_t l1bn_int8_sgd(const l1bn_int8_sgd_args* args);

// Instruction sets, as l1bn_isas(), l1bn_isa() and l1bn_select() of norm/interface.h.
L1BN_INT8_API const char* l1bn_int8_norm_isas(void);
L1BN_INT8_API const char* l1bn_int8_norm_isa(void);
L1BN_INT8_API int64_t l1bn_int8_norm_select(const char* isa);

#ifdef __cplusplus
}
#endif
