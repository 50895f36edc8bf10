#include "run.h"

#include "bytes.h"

#define LARGEST_RATE (64u << 16)
#define MOST_BLOCKS 32u

typedef void (*step_function)(const l1bn_run* run, const l1bn_op* op);

/* In the order of l1bn_kind. */
static const step_function kSteps[] = {l1bn_product,
                                       l1bn_norm_forward,
                                       l1bn_add,
                                       l1bn_relu,
                                       l1bn_hardswish,
                                       l1bn_flatten,
                                       l1bn_average,
                                       l1bn_maximum,
                                       l1bn_dropout,
                                       l1bn_upsample,
                                       l1bn_pad,
                                       l1bn_coarsest,
                                       l1bn_place,
                                       l1bn_loss,
                                       l1bn_product_error,
                                       l1bn_product_update,
                                       l1bn_norm_error,
                                       l1bn_relu_error,
                                       l1bn_hardswish_error,
                                       l1bn_flatten_error,
                                       l1bn_average_error,
                                       l1bn_maximum_error,
                                       l1bn_dropout_error,
                                       l1bn_upsample_error,
                                       l1bn_pad_error,
                                       l1bn_part,
                                       l1bn_copy,
                                       l1bn_join};

static void run_program(l1bn_run* run, const l1bn_program* program) {
  for (uint32_t i = 0; i < program->count; ++i) {
    const l1bn_op* op = &program->ops[i];
    if ((op->blocks & run->blocks) == 0u) continue;
    kSteps[op->kind](run, op);
#ifdef L1BN_PROFILE
    l1bn_profile(op->layer, op->kind >= L1BN_LOSS);
#endif
  }
}

static l1bn_run run_of(const l1bn_device* device, const int8_t* images,
                       const l1bn_tensor* tensors) {
  l1bn_run run = {0};
  run.network = device->network;
  run.state = device->state;
  run.arena = device->arena;
  run.exponents = device->exponents;
  run.images = images;
  run.tensors = tensors;
  run.count = 1;
  run.blocks = 0xFFFFFFFFu;
  run.exponents[0] = device->network->input_exponent;
  const l1bn_i32* numbers = l1bn_numbers(&run);
  run.step = (uint64_t)(uint32_t)numbers[0] | ((uint64_t)(uint32_t)numbers[1] << 32);
  return run;
}

void l1bn_init(const l1bn_device* device) {
  const l1bn_network* net = device->network;
  memset(device->state, 0, net->state_bytes);
  memcpy(device->state, net->initial, net->initial_bytes);
}

void l1bn_infer(const l1bn_device* device, const int8_t* image, int32_t* logits) {
  const l1bn_network* net = device->network;
  l1bn_run run = run_of(device, image, net->infer.tensors);
  run_program(&run, &net->frozen);
  run_program(&run, &net->infer);
  memcpy(logits, l1bn_at(&run, net->logits_infer), net->classes * sizeof(int32_t));
}

static void advance(l1bn_run* run) {
  l1bn_i32* numbers = l1bn_numbers(run);
  const uint64_t next = run->step + 1u;
  numbers[0] = (int32_t)(uint32_t)next;
  numbers[1] = (int32_t)(uint32_t)(next >> 32);
}

enum l1bn_status l1bn_train_step(const l1bn_device* device, const int8_t* images,
                                 const uint16_t* labels, uint32_t rate, int32_t* logits) {
  return l1bn_train_part(device, images, labels, rate, device->network->blocks, logits);
}

enum l1bn_status l1bn_train_part(const l1bn_device* device, const int8_t* images,
                                 const uint16_t* labels, uint32_t rate, uint32_t blocks,
                                 int32_t* logits) {
  return l1bn_train_measured(device, images, labels, rate, blocks, logits, 0);
}

enum l1bn_status l1bn_train_measured(const l1bn_device* device, const int8_t* images,
                                     const uint16_t* labels, uint32_t rate, uint32_t blocks,
                                     int32_t* logits, int64_t* norms) {
  const l1bn_network* net = device->network;
  if (net->train.count == 0u || (net->blocks & blocks) == 0u) return L1BN_NO_TRAINING;
  if (rate > LARGEST_RATE) return L1BN_BAD_RATE;
  for (uint32_t n = 0; n < net->batch; ++n)
    if (labels[n] >= net->classes) return L1BN_BAD_LABEL;
  l1bn_run run = run_of(device, images, net->train.tensors);
  for (run.image = 0; run.image < net->batch; ++run.image) run_program(&run, &net->frozen);
  run.image = 0;
  run.count = net->batch;
  run.labels = labels;
  run.rate = rate;
  run.blocks = blocks & net->blocks;
  run.norms = norms;
  for (uint32_t n = 0; norms != 0 && n < MOST_BLOCKS; ++n)
    if ((run.blocks >> n & 1u) != 0u) norms[n] = 0;
  run_program(&run, &net->train);
  advance(&run);
  if (logits != 0)
    memcpy(logits, l1bn_at(&run, net->logits_train),
           (uint32_t)net->batch * net->classes * sizeof(int32_t));
  return L1BN_OK;
}

uint32_t l1bn_largest(const int64_t* norms, uint32_t blocks, uint32_t count) {
  uint32_t chosen = 0;
  for (; count != 0u && chosen != blocks; --count) {
    uint32_t best = MOST_BLOCKS;
    for (uint32_t n = 0; n < MOST_BLOCKS; ++n) {
      if (((blocks & ~chosen) >> n & 1u) == 0u) continue;
      if (best == MOST_BLOCKS || norms[n] > norms[best]) best = n;
    }
    chosen |= (uint32_t)1 << best;
  }
  return chosen;
}
