/* The sums of a product: what convolutions, linear layers and norms of tensors have in common. */
#ifndef L1BN_SUMS_H
#define L1BN_SUMS_H

#include "run.h"

/* A product in use: its operands, and the bias of the channel that is computed. */
typedef struct {
  const l1bn_window* window;
  const int8_t* x;
  const int8_t* weight; /* 0: the values of x themselves */
  int32_t bias;
  int32_t exponent; /* of the sums */
} l1bn_sums;

/* The operands of a product; weights that learn are rounded to 8 bits in `scratch`. */
l1bn_sums l1bn_sums_of(const l1bn_run* run, const l1bn_op* op);

/* Go on to an output channel: take its bias in steps of the sums. */
void l1bn_sums_channel(const l1bn_run* run, const l1bn_op* op, uint32_t channel, l1bn_sums* sums);

/* The sum at a pixel of the output, of all images one after the other. */
int32_t l1bn_sum(const l1bn_sums* sums, uint32_t pixel, uint32_t channel);

/* 8-bit weights of a product and their exponent, rounded into `scratch` where they learn. */
const int8_t* l1bn_narrow(const l1bn_run* run, const l1bn_op* op, int8_t* scratch,
                          int32_t* exponent);

#endif
