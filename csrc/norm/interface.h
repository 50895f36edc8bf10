// C interface of the native L1BN kernels: raw pointers, no torch and no Python headers.
//
// A call takes one block of arguments in which every field is 8 bytes wide, so that a caller can
// pack it without knowing the compiler's padding rules. Tensors are dense, in one of two layouts:
//
//   planes  (outer, channels, inner)  NCHW and its 3-d and 5-d relatives, inner > 1
//   rows    (outer, channels)         channels_last and (N, C): inner == 1
//
// Statistics are float, or double for double tensors. `mean` has two parts of `channels` numbers
// each, whose sum is the mean. `bits` holds one bit per element, set where x >= mean, in units of
// 16 bits in the order of memory: per plane in layout `planes`, per row in `rows`. The last unit of
// a plane or row reaches back where no 16 elements are left; planes or rows of fewer than 16
// elements are one run of bits. Its size is l1bn_bits_bytes().
//
// Source of the method: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
#pragma once
#include "common/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define L1BN_API __attribute__((visibility("default")))

enum l1bn_dtype { L1BN_F32 = 0, L1BN_BF16 = 1, L1BN_F16 = 2, L1BN_F64 = 3 };
enum l1bn_activation {
  L1BN_NONE = 0,
  L1BN_RELU = 1,  // these two clip: a gradient passes as it is or not at all
  L1BN_RELU6 = 2,
  L1BN_LEAKY_RELU = 3,  // these two have a parameter; above 0 it lets z be read off y
  L1BN_ELU = 4,
  L1BN_SILU = 5,  // of the others backward needs x
  L1BN_HARDSWISH = 6,
  L1BN_HARDSIGMOID = 7,
  L1BN_GELU = 8,
  L1BN_GELU_TANH = 9,
  L1BN_MISH = 10,
  L1BN_SIGMOID = 11,
  L1BN_TANH = 12
};

typedef struct {
  int64_t outer, channels, inner;
  int64_t dtype;        // of x, residual, y
  int64_t param_dtype;  // of weight and bias
  int64_t activation;
  int64_t threads;
  double eps;        // variance floor: scale >= sqrt(eps)
  double parameter;  // the activation's
} l1bn_problem;

typedef struct {
  l1bn_problem problem;
  const void *x, *residual, *weight, *bias;  // all but x may be null
  void *y, *mean, *scale;
  void* bits;          // may be null
  double recoverable;  // largest (|bias| + max|residual|) / |weight| from which x is recovered
  // Running statistics to move towards the batch's as BatchNorm does, or null: the variance is
  // max(scale^2 - eps, 0) * count / (count - 1). A channel keeps its own where its batch is not
  // finite, or the new ones would not be in their dtype.
  void *running_mean, *running_var;
  int64_t running_dtype;
  double momentum;
} l1bn_forward_args;

// Training forward. Returns the number of channels whose normalized input cannot be recovered from
// y well enough (see `recoverable`; bits or no bits), or an error of common/status.h.
L1BN_API int64_t l1bn_forward(const l1bn_forward_args* args);

typedef struct {
  l1bn_problem problem;
  const void* grad;
  const void* y;         // output, where there is an activation or x is to be recovered
  const void* x;         // input, or null: recovered from y, residual and bits
  const void* residual;  // read only under an activation, where it is needed to tell z or x_hat
  const void* bits;      // read only where x is null
  const void *weight, *bias, *mean, *scale;
  void *dx, *dresidual;   // may be null; dresidual, or dx without a dresidual, may be `grad`
  void *dweight, *dbias;  // statistics' dtype, may be null
  int64_t frozen;         // mean and scale are constants: no gradient through them
} l1bn_backward_args;

L1BN_API int64_t l1bn_backward(const l1bn_backward_args* args);

typedef struct {
  l1bn_problem problem;
  const void *x, *residual, *weight, *bias;
  const void *running_mean, *running_var;
  int64_t running_dtype;
  void* y;
  void *mean, *scale;  // out: what backward needs
  double recoverable;  // as in l1bn_forward_args
} l1bn_evaluate_args;

// Evaluation: y = act((x - running_mean) / sqrt(running_var + eps) * weight + bias + residual).
L1BN_API int64_t l1bn_evaluate(const l1bn_evaluate_args* args);

typedef struct {
  int64_t elements;
  int64_t dtype, activation;  // of y: L1BN_RELU or L1BN_RELU6
  int64_t threads;
  const void* y;
  const void* from;
  void* to;
} l1bn_alive_args;

// Elements through which the activation passes a gradient; `from` and `to` are not read.
L1BN_API int64_t l1bn_count_alive(const l1bn_alive_args* args);
// Gather those elements of `from`, which is like y, into `to` in the order of memory.
L1BN_API int64_t l1bn_pack_alive(const l1bn_alive_args* args);
// The reverse: `to` is like y, and 0 where y is not alive.
L1BN_API int64_t l1bn_unpack_alive(const l1bn_alive_args* args);

L1BN_API int64_t l1bn_bits_bytes(int64_t outer, int64_t channels, int64_t inner);
// Version of the argument blocks and of the table of errors, of all three interfaces together.
#define L1BN_ABI 10
L1BN_API int64_t l1bn_abi(void);

// Instruction sets compiled in and runnable here, best first, separated by blanks.
L1BN_API const char* l1bn_isas(void);
// The one in use. l1bn_select() changes it and returns 0, or L1BN_BAD_ISA.
L1BN_API const char* l1bn_isa(void);
L1BN_API int64_t l1bn_select(const char* isa);
// 1 where an OpenMP runtime of the process serves the threads, 0 where calls run on one thread.
L1BN_API int64_t l1bn_threaded(void);

#ifdef __cplusplus
}
#endif
