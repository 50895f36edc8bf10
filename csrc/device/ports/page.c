/* A network in a page: the page writes images, labels and slots, and calls. */
#include "bytes.h"
#include "network.h"

#define EXPORT(name) __attribute__((export_name(name)))
#define IMAGE (NETWORK_HEIGHT * NETWORK_WIDTH * NETWORK_CHANNELS)
#define SLOT (NETWORK_STATE_BYTES + L1BN_HEADER_BYTES)
#define SLOTS 2u

static int8_t images[NETWORK_BATCH * IMAGE];
static uint16_t labels[NETWORK_BATCH];
static int32_t logits[NETWORK_BATCH * NETWORK_CLASSES];
static uint8_t slots[SLOTS][SLOT];

static int erase(void* context, uint32_t slot) {
  (void)context;
  memset(slots[slot], 0xFF, SLOT);
  return 0;
}

static int write(void* context, uint32_t slot, uint32_t offset, const uint8_t* data,
                 uint32_t size) {
  (void)context;
  memcpy(slots[slot] + offset, data, size);
  return 0;
}

static int read(void* context, uint32_t slot, uint32_t offset, uint8_t* data, uint32_t size) {
  (void)context;
  memcpy(data, slots[slot] + offset, size);
  return 0;
}

static const l1bn_storage kStorage = {0, erase, write, read};

EXPORT("images") int8_t* page_images(void) { return images; }
EXPORT("labels") uint16_t* page_labels(void) { return labels; }
EXPORT("logits") int32_t* page_logits(void) { return logits; }
EXPORT("exponent_infer") int32_t page_exponent_infer(void) {
  return network.exponents[network.network->logits_infer];
}
EXPORT("exponent_train") int32_t page_exponent_train(void) {
  return network.exponents[network.network->logits_train];
}
EXPORT("slot") uint8_t* page_slot(void) { return slots[0]; }
EXPORT("slot_size") uint32_t page_slot_size(void) { return l1bn_state_size(&network); }
EXPORT("identity") uint32_t page_identity(void) { return network.network->identity; }

EXPORT("init") void page_init(void) { network_init(); }

/* The first of the images. */
EXPORT("infer") void page_infer(void) { network_infer(images, logits); }

/* All of them; the logits are those before the step. */
EXPORT("train") uint32_t page_train(uint32_t rate) {
  return (uint32_t)l1bn_train_step(&network, images, labels, rate, logits);
}

/* Into the first slot, which the page takes away. */
EXPORT("save") uint32_t page_save(void) {
  erase(0, 0);
  erase(0, 1);
  return (uint32_t)network_state_save(&kStorage);
}

/* From the first slot, where the page has put it. */
EXPORT("load") uint32_t page_load(void) {
  erase(0, 1);
  return (uint32_t)network_state_load(&kStorage);
}
