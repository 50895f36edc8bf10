/* A network of l1bn.quantized on a processor without floating point: inference and training.
 *
 * C99, no allocation, no recursion, no libc but memcpy and memset. Every integer equals what
 * l1bn.quantized computes; l1bn.fixed_point is the specification. The tables come from a generated
 * network.c, which also holds the memory. */
#ifndef L1BN_DEVICE_H
#define L1BN_DEVICE_H

#include <stdint.h>

#define L1BN_NONE 0xFFFFu
#define L1BN_CALLER 0xFFFFFFFFu /* offset of the tensor that the caller holds: the images */

enum l1bn_status {
  L1BN_OK = 0,
  L1BN_BAD_LABEL = 1,  /* a label is none of the classes; nothing has changed */
  L1BN_BAD_RATE = 2,   /* a rate is above 64; nothing has changed */
  L1BN_NO_STATE = 3,   /* no slot holds an intact state of this network; nothing has changed */
  L1BN_STORAGE = 4,    /* a storage function failed; the slot that was valid before still is */
  L1BN_NO_TRAINING = 5 /* no layer of this network learns */
};

enum l1bn_kind {
  L1BN_PRODUCT = 0,          /* sums in 8 bits of one exponent, or in 32 */
  L1BN_NORM = 1,             /* of a product's sums, or of a tensor */
  L1BN_ADD = 2,              /* saturated, aligned */
  L1BN_RELU = 3,             /* max(a, 0) */
  L1BN_HARDSWISH = 4,        /* by a table of all codes */
  L1BN_FLATTEN = 5,          /* channels first */
  L1BN_AVERAGE = 6,          /* of windows */
  L1BN_MAXIMUM = 7,          /* of windows; places are kept */
  L1BN_DROPOUT = 8,          /* some numbers to zero, the others scaled */
  L1BN_UPSAMPLE = 9,         /* each pixel several times */
  L1BN_PAD = 10,             /* zeros around an image, or less of it */
  L1BN_COARSEST = 11,        /* out takes the larger exponent, or a's if it is the first */
  L1BN_PLACE = 12,           /* channels of a among those of out */
  L1BN_LOSS = 13,            /* the error of the logits */
  L1BN_PRODUCT_ERROR = 14,   /* gradient in the input */
  L1BN_PRODUCT_UPDATE = 15,  /* gradient in weights and bias, and their step */
  L1BN_NORM_ERROR = 16,      /* gradient in the input, and the step of gamma and beta */
  L1BN_RELU_ERROR = 17,      /* masks in place */
  L1BN_HARDSWISH_ERROR = 18, /* times the slope, in place */
  L1BN_FLATTEN_ERROR = 19,   /* channels last again */
  L1BN_AVERAGE_ERROR = 20,   /* spread evenly */
  L1BN_MAXIMUM_ERROR = 21,   /* to the places */
  L1BN_DROPOUT_ERROR = 22,   /* the same of their errors, in place */
  L1BN_UPSAMPLE_ERROR = 23,  /* sums of the copies */
  L1BN_PAD_ERROR = 24,       /* of the image's own pixels */
  L1BN_PART = 25,            /* the errors of some channels */
  L1BN_COPY = 26,            /* an error that two layers change */
  L1BN_JOIN = 27             /* out += a, in 8 bits again */
};

enum l1bn_mode {
  L1BN_FOLDED = 0,  /* constants in flash */
  L1BN_RUNNING = 1, /* running statistics in the state */
  L1BN_BATCH = 2,   /* statistics of the batch, which move the running ones */
  L1BN_MOVING = 3   /* running statistics, which the batch moves afterwards */
};

enum l1bn_flag {
  L1BN_HAS_RELU = 1,     /* a norm ends in a ReLU */
  L1BN_WIDE = 2,         /* the sums stay 32 bits: logits */
  L1BN_SHARED_SHIFT = 4, /* one exponent for all channels before a norm */
  L1BN_DISJOINT = 8,     /* windows do not overlap */
  L1BN_POW2 = 16,        /* sigma is a power of two */
  L1BN_TRAINS = 32,      /* a scale follows the batch */
  L1BN_TWICE = 64,       /* 32-bit sums are computed twice and never all kept */
  L1BN_SIX = 128         /* a ReLU ends at 6 */
};

/* Where a tensor lies: the arena's byte for the first image, and bytes from image to image. */
typedef struct {
  uint32_t offset;
  uint32_t stride;
} l1bn_tensor;

/* Height, width and channels of a layer's input and output, and the window between them. */
typedef struct {
  uint16_t height, width, channels;
  uint16_t out_height, out_width, out_channels;
  uint16_t kernel_height, kernel_width;
  uint16_t stride_y, stride_x; /* from one window to the next */
  uint16_t top, left; /* what is added above and to the left; of an L1BN_PAD, 65536 more than
                         what is cut away there is less than 0 */
  uint16_t dilation_y, dilation_x; /* from pixel to pixel within a window */
  uint16_t groups;                 /* parts of the channels that see each other only */
} l1bn_window;

/* Weights, a bias, gamma or beta. */
typedef struct {
  const void* fixed; /* what does not learn: 8-bit weights of a product, 16-bit masters of others */
  uint32_t count;    /* values */
  uint32_t master;   /* what learns: byte of the state */
  uint32_t momentum; /* byte of the state, or L1BN_CALLER: no momentum is kept */
  int16_t exponent;  /* of `fixed` */
  uint16_t slot;     /* what learns: place of its two exponents among the state's numbers */
  uint16_t index;    /* its number, from which random bits follow */
  uint8_t learns;
  uint8_t decays;
} l1bn_parameter;

/* What evaluation needs of a channel when nothing before it learns. */
typedef struct {
  int32_t offset;
  int16_t coefficient;
  uint8_t shift;   /* of y */
  uint8_t rescale; /* of the sums */
} l1bn_folded;

typedef struct {
  const l1bn_folded* folded;                  /* L1BN_FOLDED */
  uint32_t mean, variance, exponent, batches; /* bytes of the state */
  uint16_t gamma, beta;                       /* parameters */
  uint16_t momentum;                          /* of the running statistics, of 2048 */
  uint16_t fraction;                          /* fraction bits of y and beta */
} l1bn_norm;

/* One step of the program. Tensors, windows, norms and parameters are places in their tables. */
typedef struct {
  uint32_t blocks; /* set of the blocks for whose sake it is computed */
  uint8_t kind, mode, flags, unused;
  uint16_t layer; /* the layer of the report that it belongs to */
  uint16_t site;  /* place of its random bits */
  uint16_t a, b;  /* inputs; b: residual or second term */
  uint16_t out;
  uint16_t x;        /* 8-bit input of a norm; input of a product; places of a maximum */
  uint16_t y;        /* output of a norm or ReLU, which masks */
  uint16_t channels; /* numbers of each channel of a norm */
  uint16_t scratch;  /* weights in 8 bits, or their gradient */
  uint16_t sums;     /* 32-bit sums */
  uint16_t window, norm, weight, bias;
  uint16_t scale; /* place of an exponent and a flag among the state's numbers; of a dropout, the
                     chance of a number to stay, of 65536, less one */
  int16_t value;  /* kept fraction bits of a sum; first channel of an L1BN_PLACE and L1BN_PART; 1
                     for the first L1BN_COARSEST; block of an L1BN_NORM_ERROR, -1 for none; of a
                     dropout, 1 where whole channels go together */
} l1bn_op;

typedef struct {
  const l1bn_op* ops;
  const l1bn_tensor* tensors;
  uint16_t count;
} l1bn_program;

typedef struct {
  l1bn_program frozen; /* image by image, in both directions of use; its tensors are `infer`'s */
  l1bn_program infer;  /* the rest, of one image */
  l1bn_program train;  /* the rest, of a batch, forward and backward */
  const l1bn_window* windows;
  const l1bn_norm* norms;
  const l1bn_parameter* parameters;
  const uint16_t* powers; /* 2**(15 - i/1024) */
  const uint8_t* initial; /* first bytes of the state; the rest is zeros */
  uint64_t seed;
  uint32_t initial_bytes, state_bytes, arena_bytes;
  uint32_t identity; /* of the program: a state fits no other */
  uint32_t numbers;  /* byte of the state: step number, exponents, scales */
  uint32_t decay;    /* weight decay with 32 fraction bits */
  uint32_t momentum; /* with 16 fraction bits */
  uint32_t blocks;   /* the set of all that may learn */
  uint16_t batch, classes;
  uint16_t smoothing;                  /* with 14 fraction bits */
  uint16_t logits_infer, logits_train; /* tensors */
  int16_t input_exponent;
  uint8_t error_bits, master_bits;
  uint8_t stochastic, nesterov;
} l1bn_network;

/* A network and its memory: none is shared, so that several may live side by side. */
typedef struct {
  const l1bn_network* network;
  uint8_t* state;     /* state_bytes, aligned to 8 */
  uint8_t* arena;     /* arena_bytes, aligned to 8; its content between calls does not matter */
  int16_t* exponents; /* one per tensor of the larger program */
} l1bn_device;

#define L1BN_HEADER_BYTES 24u /* of a slot; the state follows */

/* Two slots of flash, each of l1bn_state_size() bytes. Every function returns 0 on success. A write
 * never begins before its slot was erased; it may be interrupted at any byte. A read fails only
 * where a later one may succeed: of bytes that the flash itself knows to be damaged it returns any,
 * which the checksum refuses. */
typedef struct {
  void* context;
  int (*erase)(void* context, uint32_t slot);
  int (*write)(void* context, uint32_t slot, uint32_t offset, const uint8_t* data, uint32_t size);
  int (*read)(void* context, uint32_t slot, uint32_t offset, uint8_t* data, uint32_t size);
} l1bn_storage;

/* Start from the weights in flash. */
void l1bn_init(const l1bn_device* device);

/* 32-bit logits of one image: height, width, channels in that order, steps of 2**input_exponent. */
void l1bn_infer(const l1bn_device* device, const int8_t* image, int32_t* logits);

/* One step of SGD on a batch of images, each as l1bn_infer takes it. The rate has 16 fraction bits.
 * `logits`, unless it is 0, receives those of the batch before the step. */
enum l1bn_status l1bn_train_step(const l1bn_device* device, const int8_t* images,
                                 const uint16_t* labels, uint32_t rate, int32_t* logits);

/* The same, but only some blocks of layers learn: bit n of `blocks` stands for block n, the first
 * layers first. Errors go back no further than the first of them. The others keep weights and
 * momentum; their normalization takes the batch as it does. No known block: L1BN_NO_TRAINING. */
enum l1bn_status l1bn_train_part(const l1bn_device* device, const int8_t* images,
                                 const uint16_t* labels, uint32_t rate, uint32_t blocks,
                                 int32_t* logits);

/* The same, and norms[n] becomes the sum of magnitudes of the gradients of block n, with 32
 * fraction bits; a block that does not learn keeps its number. `norms` has 32 places. */
enum l1bn_status l1bn_train_measured(const l1bn_device* device, const int8_t* images,
                                     const uint16_t* labels, uint32_t rate, uint32_t blocks,
                                     int32_t* logits, int64_t* norms);

/* Those `count` of some blocks whose norms are the largest; of equal ones the first. */
uint32_t l1bn_largest(const int64_t* norms, uint32_t blocks, uint32_t count);

/* Bytes of a slot. */
uint32_t l1bn_state_size(const l1bn_device* device);

/* Write what was learned into the slot that does not hold the newest intact state. Both slots are
 * read first; if that fails, nothing is erased. */
enum l1bn_status l1bn_state_save(const l1bn_device* device, const l1bn_storage* storage);

/* Read the newest intact state. Where a slot cannot be read, it may be the newest: L1BN_STORAGE,
 * and nothing has changed. If a read fails later, while the state is taken over, the network is
 * back at the weights in flash, as after l1bn_init. */
enum l1bn_status l1bn_state_load(const l1bn_device* device, const l1bn_storage* storage);

#ifdef L1BN_PROFILE
/* Called after each step of a program with its layer; forward is 0, backward and update 1. */
void l1bn_profile(uint16_t layer, int backward);
#endif

#endif
