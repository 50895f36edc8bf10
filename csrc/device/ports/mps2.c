/* The clock of the MPS2 boards: CMSDK timer 0, which counts down at 25 MHz. */
#include "clock.h"
#include "port.h"

#define TIMER_CONTROL (*(volatile uint32_t*)0x40000000u)
#define TIMER_VALUE (*(volatile uint32_t*)0x40000004u)
#define TIMER_RELOAD (*(volatile uint32_t*)0x40000008u)
#define TICK 40u /* instructions */

void clock_start(void) {
  TIMER_RELOAD = 0xFFFFFFFFu;
  TIMER_VALUE = 0xFFFFFFFFu;
  TIMER_CONTROL = 1u;
}

uint64_t port_instructions(void) { return (uint64_t)(0xFFFFFFFFu - TIMER_VALUE) * TICK; }
