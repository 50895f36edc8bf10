/* The clock of an nRF51: timer 0, which counts up at 16 MHz. */
#include "clock.h"
#include "port.h"

#define TIMER_START (*(volatile uint32_t*)0x40008000u)
#define TIMER_CAPTURE (*(volatile uint32_t*)0x40008040u)
#define TIMER_BITS (*(volatile uint32_t*)0x40008508u)
#define TIMER_PRESCALER (*(volatile uint32_t*)0x40008510u)
#define TIMER_CAPTURED (*(volatile uint32_t*)0x40008540u)
#define BITS_32 3u
#define HALF_TICK 125u /* a tick takes 62.5 instructions */

void clock_start(void) {
  TIMER_BITS = BITS_32;
  TIMER_PRESCALER = 0u;
  TIMER_START = 1u;
}

uint64_t port_instructions(void) {
  TIMER_CAPTURE = 1u;
  return (uint64_t)TIMER_CAPTURED * HALF_TICK / 2u;
}
