/* Trains on embedded images and writes what came of it: every logit, the state, and figures. */
#include "trial.h"

#include "bytes.h"
#include "network.h"
#include "port.h"

#define LINE 64u

#ifdef L1BN_PROFILE
static uint64_t instructions[2][TRIAL_LAYERS];
static uint64_t before;

void l1bn_profile(uint16_t layer, int backward) {
  const uint64_t now = port_instructions();
  instructions[backward][layer] += now - before;
  before = port_instructions();
}
#endif

static void write_bytes(const char* title, const uint8_t* bytes, uint32_t count) {
  static const char kDigits[] = "0123456789abcdef";
  char line[2u * LINE + 2u];
  port_write(title);
  port_write("\n");
  for (uint32_t at = 0; at < count; at += LINE) {
    const uint32_t size = count - at < LINE ? count - at : LINE;
    for (uint32_t i = 0; i < size; ++i) {
      line[2u * i] = kDigits[bytes[at + i] >> 4];
      line[2u * i + 1u] = kDigits[bytes[at + i] & 15u];
    }
    line[2u * size] = '\n';
    line[2u * size + 1u] = '\0';
    port_write(line);
  }
}

static void write_number(const char* title, uint64_t value) {
  char text[24];
  uint32_t at = sizeof(text);
  text[--at] = '\0';
  text[--at] = '\n';
  do {
    text[--at] = (char)('0' + (char)(value % 10u));
    value /= 10u;
  } while (value != 0u);
  port_write(title);
  port_write(" ");
  port_write(text + at);
}

static void write_profile(const char* title) {
#ifdef L1BN_PROFILE
  port_write(title);
  port_write("\n");
  for (uint32_t backward = 0; backward < 2u; ++backward) {
    for (uint32_t i = 0; i < TRIAL_LAYERS; ++i)
      write_number(backward != 0u ? "backward" : "forward", instructions[backward][i]);
  }
#else
  (void)title;
#endif
}

static void start_profile(void) {
#ifdef L1BN_PROFILE
  memset(instructions, 0, sizeof(instructions));
  before = port_instructions();
#endif
}

static int32_t logits[NETWORK_BATCH * NETWORK_CLASSES];
static int64_t norms[32];
static uint32_t chosen;

/* A step of the blocks that are given, or of as many as are asked for by the gradients so far. */
static enum l1bn_status take(uint32_t step) {
  const int8_t* images = trial_images + step * NETWORK_BATCH * TRIAL_IMAGE;
  const uint16_t* labels = trial_labels + step * NETWORK_BATCH;
  const uint32_t rate = trial_rates[step];
  chosen = trial_blocks[step];
  if (trial_largest[step] == 0u)
    return l1bn_train_part(&network, images, labels, rate, chosen, logits);
  chosen = l1bn_largest(norms, network.network->blocks, trial_largest[step]);
  return l1bn_train_measured(&network, images, labels, rate, chosen, logits, norms);
}

int trial(void) {
  network_init();
  for (uint32_t step = 0; step != TRIAL_STEPS; ++step) { /* there may be none */
    start_profile();
    const uint64_t start = port_instructions();
    const enum l1bn_status status = take(step);
    write_number("step", port_instructions() - start);
    if (status != L1BN_OK) {
      write_number("status", (uint64_t)status);
      return 1;
    }
    write_number("blocks", chosen & network.network->blocks);
    if (step == 0u) write_profile("train");
    write_bytes("logits", (const uint8_t*)logits, sizeof(logits));
  }
  write_bytes("state", network.state, NETWORK_STATE_BYTES);
  for (uint32_t image = 0; image < TRIAL_INFERENCES; ++image) {
    start_profile();
    network_infer(trial_images + image * TRIAL_IMAGE, logits);
    if (image == 0u) write_profile("infer");
    write_bytes("logits", (const uint8_t*)logits, NETWORK_CLASSES * sizeof(int32_t));
  }
  write_number("stack", port_stack());
  port_write("done\n");
  return 0;
}
