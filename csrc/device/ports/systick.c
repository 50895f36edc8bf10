/* The clock of the MPS3 board AN547: the processor's own timer, which counts down at 32 MHz. */
#include "clock.h"
#include "port.h"

#define SYSTICK_CONTROL (*(volatile uint32_t*)0xE000E010u)
#define SYSTICK_RELOAD (*(volatile uint32_t*)0xE000E014u)
#define SYSTICK_VALUE (*(volatile uint32_t*)0xE000E018u)
#define ENABLE_AT_PROCESSOR_CLOCK 5u
#define BITS_24 0xFFFFFFu
#define TICKS_OF_1000 32u /* instructions */

static uint64_t ticks;
static uint32_t last;

void clock_start(void) {
  SYSTICK_RELOAD = BITS_24;
  SYSTICK_VALUE = 0u;
  SYSTICK_CONTROL = ENABLE_AT_PROCESSOR_CLOCK;
}

/* It begins anew every 524 million instructions: call it more often. */
uint64_t port_instructions(void) {
  const uint32_t now = BITS_24 - SYSTICK_VALUE;
  ticks += (now - last) & BITS_24;
  last = now;
  return ticks * 1000u / TICKS_OF_1000;
}
