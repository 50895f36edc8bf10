/* What the steps of a program share. */
#ifndef L1BN_RUN_H
#define L1BN_RUN_H

#include "l1bn_device.h"
#include "rounding.h"
#include "window.h"

/* First of the numbers in the state: the step number takes two places, then exponents and scales.
 */
#define L1BN_STEP_PLACES 2

typedef struct {
  const l1bn_network* network;
  const l1bn_tensor* tensors;
  const int8_t* images;
  const uint16_t* labels;
  uint8_t* state;
  uint8_t* arena;
  int16_t* exponents;
  uint64_t step;
  uint32_t count; /* images of every tensor */
  uint32_t image; /* the first of them, within the batch */
  uint32_t rate;
  uint32_t blocks; /* which learn in this step */
  int64_t* norms;  /* of each block's gradients, or 0 */
} l1bn_run;

static inline int8_t* l1bn_at(const l1bn_run* run, uint16_t tensor) {
  const l1bn_tensor t = run->tensors[tensor];
  if (t.offset == L1BN_CALLER) return (int8_t*)run->images + (uint32_t)(run->image * t.stride);
  return (int8_t*)run->arena + t.offset + (uint32_t)(run->image * t.stride);
}

static inline l1bn_i32* l1bn_at32(const l1bn_run* run, uint16_t tensor) {
  return (l1bn_i32*)(void*)l1bn_at(run, tensor);
}

static inline l1bn_i32* l1bn_numbers(const l1bn_run* run) {
  return (l1bn_i32*)(void*)(run->state + run->network->numbers);
}

/* The random bits of one rounding of a layer in this step. */
static inline l1bn_noise l1bn_noise_of(const l1bn_run* run, uint32_t site, uint32_t stream) {
  const uint64_t place = (run->step * 4096u + site) * 16u + stream;
  const l1bn_noise noise = {l1bn_stream(run->network->seed, place), run->network->stochastic};
  return noise;
}

/* Shift of a layer's output: fitted to the batch and remembered, or what is remembered. */
int32_t l1bn_output_shift(const l1bn_run* run, const l1bn_op* op, uint32_t peak, int32_t exponent);

/* Whether the shift of a layer's output needs the largest magnitude of its values. */
int l1bn_needs_peak(const l1bn_run* run, const l1bn_op* op);

/* The steps, by their kind. */
void l1bn_product(const l1bn_run* run, const l1bn_op* op);
void l1bn_product_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_product_update(const l1bn_run* run, const l1bn_op* op);
void l1bn_norm_forward(const l1bn_run* run, const l1bn_op* op);
void l1bn_norm_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_add(const l1bn_run* run, const l1bn_op* op);
void l1bn_relu(const l1bn_run* run, const l1bn_op* op);
void l1bn_relu_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_flatten(const l1bn_run* run, const l1bn_op* op);
void l1bn_flatten_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_copy(const l1bn_run* run, const l1bn_op* op);
void l1bn_join(const l1bn_run* run, const l1bn_op* op);
void l1bn_average(const l1bn_run* run, const l1bn_op* op);
void l1bn_average_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_maximum(const l1bn_run* run, const l1bn_op* op);
void l1bn_maximum_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_hardswish(const l1bn_run* run, const l1bn_op* op);
void l1bn_hardswish_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_upsample(const l1bn_run* run, const l1bn_op* op);
void l1bn_upsample_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_pad(const l1bn_run* run, const l1bn_op* op);
void l1bn_pad_error(const l1bn_run* run, const l1bn_op* op);
void l1bn_coarsest(const l1bn_run* run, const l1bn_op* op);
void l1bn_place(const l1bn_run* run, const l1bn_op* op);
void l1bn_part(const l1bn_run* run, const l1bn_op* op);
void l1bn_loss(const l1bn_run* run, const l1bn_op* op);
void l1bn_dropout(const l1bn_run* run, const l1bn_op* op);
void l1bn_dropout_error(const l1bn_run* run, const l1bn_op* op);

#endif
