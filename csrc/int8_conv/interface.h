// C interface of the 8-bit integer convolutions: raw pointers, integers only, no torch and no
// Python headers.
//
// Activations and errors are dense NHWC, weights are
// [outputs][kernel_height][kernel_width][channels / groups]; all are int8, the full range
// -128..127. Padding is zeros. Results are int32 and exact: sums are taken modulo 2^32, so a result
// is right wherever the true sum fits int32. A linear layer over N rows is a 1 x 1 convolution over
// N images of one pixel.
//
// A call takes one block of arguments in which every field is 8 bytes wide, as in
// norm/interface.h. It returns 0, or an error of common/status.h that left the results undefined.
#pragma once
#include <stdint.h>

#include "norm/interface.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int64_t images, height, width, channels;  // of x
  int64_t outputs, kernel_height, kernel_width;
  int64_t stride_down, stride_across;
  int64_t top, bottom, left, right;  // padding
  int64_t dilation_down, dilation_across;
  int64_t groups;  // of channels, and of outputs, which see each other only
  int64_t threads;
} l1bn_int8_conv_problem;

// Output height and width are (size + padding - span) / stride + 1, rounded down, where a kernel's
// span is (kernel - 1) * dilation + 1.
typedef struct {
  l1bn_int8_conv_problem problem;
  const int8_t *x, *w;
  int32_t* y;     // [images][output height][output width][outputs]
  int32_t* peak;  // [outputs], the largest |y| of each channel (at most 2^31 - 1), or null
} l1bn_int8_conv_forward_args;

L1BN_API int64_t l1bn_int8_conv_forward(const l1bn_int8_conv_forward_args* args);

typedef struct {
  l1bn_int8_conv_problem problem;
  const int8_t *e, *w;  // e: error of y
  int32_t* dx;          // [images][height][width][channels]
  int32_t* peak;        // [channels], the largest |dx| of each channel, or null
} l1bn_int8_conv_input_gradient_args;

L1BN_API int64_t l1bn_int8_conv_input_gradient(const l1bn_int8_conv_input_gradient_args* args);

typedef struct {
  l1bn_int8_conv_problem problem;
  const int8_t *x, *e;
  int32_t* dw;  // [outputs][kernel_height][kernel_width][channels]
} l1bn_int8_conv_weight_gradient_args;

L1BN_API int64_t l1bn_int8_conv_weight_gradient(const l1bn_int8_conv_weight_gradient_args* args);

// Instruction sets compiled in and runnable here, best first, separated by blanks.
L1BN_API const char* l1bn_int8_conv_isas(void);
// The one in use. l1bn_int8_conv_select() changes it and returns 0, or L1BN_BAD_ISA.
L1BN_API const char* l1bn_int8_conv_isa(void);
L1BN_API int64_t l1bn_int8_conv_select(const char* isa);

#ifdef __cplusplus
}
#endif
