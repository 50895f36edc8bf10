#include "bytes.h"
#include "l1bn_device.h"

#define MAGIC 0x6E62316Cu /* "l1bn" */
#define VERSION 1u
#define HEADER_WORDS (L1BN_HEADER_BYTES / 4u)
#define CHUNK 64u
#define SLOTS 2u

/* Written last: a slot is intact once its header is. Words are little-endian. */
typedef struct {
  uint32_t magic, version, identity, size, sequence, checksum;
} header;

static uint32_t checksum(uint32_t crc, const uint8_t* data, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
  }
  return crc;
}

static void put_words(const header* h, uint8_t* bytes) {
  const uint32_t words[HEADER_WORDS] = {h->magic, h->version,  h->identity,
                                        h->size,  h->sequence, h->checksum};
  for (uint32_t i = 0; i < L1BN_HEADER_BYTES; ++i)
    bytes[i] = (uint8_t)(words[i / 4u] >> (8u * (i % 4u)));
}

static header get_words(const uint8_t* bytes) {
  uint32_t words[HEADER_WORDS] = {0};
  for (uint32_t i = 0; i < L1BN_HEADER_BYTES; ++i)
    words[i / 4u] |= (uint32_t)bytes[i] << (8u * (i % 4u));
  const header h = {words[0], words[1], words[2], words[3], words[4], words[5]};
  return h;
}

/* Of all words but the checksum itself. */
static uint32_t header_checksum(const header* h) {
  uint8_t bytes[L1BN_HEADER_BYTES];
  put_words(h, bytes);
  return checksum(0xFFFFFFFFu, bytes, L1BN_HEADER_BYTES - 4u);
}

uint32_t l1bn_state_size(const l1bn_device* device) {
  return L1BN_HEADER_BYTES + device->network->state_bytes;
}

enum slot_content { SLOT_OTHER, SLOT_INTACT, SLOT_UNREAD };

/* Whether a slot holds an intact state of this network, and its number. A slot that could not be
 * read may hold one. */
static enum slot_content look(const l1bn_device* device, const l1bn_storage* storage, uint32_t slot,
                              uint32_t* sequence) {
  uint8_t bytes[CHUNK];
  const uint32_t size = device->network->state_bytes;
  if (storage->read(storage->context, slot, 0, bytes, L1BN_HEADER_BYTES) != 0) return SLOT_UNREAD;
  const header h = get_words(bytes);
  if (h.magic != MAGIC || h.version != VERSION) return SLOT_OTHER;
  if (h.identity != device->network->identity || h.size != size) return SLOT_OTHER;
  uint32_t crc = header_checksum(&h);
  for (uint32_t at = 0; at < size; at += CHUNK) {
    const uint32_t count = size - at < CHUNK ? size - at : CHUNK;
    if (storage->read(storage->context, slot, L1BN_HEADER_BYTES + at, bytes, count) != 0)
      return SLOT_UNREAD;
    crc = checksum(crc, bytes, count);
  }
  *sequence = h.sequence;
  return h.checksum == crc ? SLOT_INTACT : SLOT_OTHER;
}

/* The slot with the newest intact state, or SLOTS. L1BN_STORAGE where a slot could not be read:
 * that one may be the newest. */
static enum l1bn_status newest(const l1bn_device* device, const l1bn_storage* storage,
                               uint32_t* found, uint32_t* sequence) {
  *found = SLOTS;
  for (uint32_t slot = 0; slot < SLOTS; ++slot) {
    uint32_t number = 0;
    const enum slot_content content = look(device, storage, slot, &number);
    if (content == SLOT_UNREAD) return L1BN_STORAGE;
    if (content == SLOT_OTHER) continue;
    if (*found != SLOTS && (int32_t)(number - *sequence) <= 0) continue;
    *found = slot;
    *sequence = number;
  }
  return L1BN_OK;
}

enum l1bn_status l1bn_state_save(const l1bn_device* device, const l1bn_storage* storage) {
  const l1bn_network* net = device->network;
  uint32_t have, sequence = 0;
  if (newest(device, storage, &have, &sequence) != L1BN_OK) return L1BN_STORAGE;
  const uint32_t slot = have == 0u ? 1u : 0u;
  header h = {MAGIC, VERSION, net->identity, net->state_bytes, sequence + 1u, 0};
  uint8_t bytes[L1BN_HEADER_BYTES];
  h.checksum = checksum(header_checksum(&h), device->state, net->state_bytes);
  put_words(&h, bytes);
  if (storage->erase(storage->context, slot) != 0) return L1BN_STORAGE;
  if (storage->write(storage->context, slot, L1BN_HEADER_BYTES, device->state, net->state_bytes) !=
      0)
    return L1BN_STORAGE;
  if (storage->write(storage->context, slot, 0, bytes, L1BN_HEADER_BYTES) != 0) return L1BN_STORAGE;
  return L1BN_OK;
}

enum l1bn_status l1bn_state_load(const l1bn_device* device, const l1bn_storage* storage) {
  uint32_t slot, sequence = 0;
  if (newest(device, storage, &slot, &sequence) != L1BN_OK) return L1BN_STORAGE;
  if (slot == SLOTS) return L1BN_NO_STATE;
  if (storage->read(storage->context, slot, L1BN_HEADER_BYTES, device->state,
                    device->network->state_bytes) != 0) {
    l1bn_init(device); /* what was read so far is no state */
    return L1BN_STORAGE;
  }
  return L1BN_OK;
}
