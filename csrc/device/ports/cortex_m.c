/* A Cortex-M of the MPS2 boards, as QEMU has them. */
#include "bare.h"
#include "port.h"

/* CMSDK timer 0: 25 MHz. With `-icount shift=0` an instruction takes a nanosecond, a tick 40. */
#define TIMER_CONTROL (*(volatile uint32_t*)0x40000000u)
#define TIMER_VALUE (*(volatile uint32_t*)0x40000004u)
#define TIMER_RELOAD (*(volatile uint32_t*)0x40000008u)
#define TICK 40u

uintptr_t bare_call(uintptr_t operation, const void* argument) {
  register uintptr_t r0 __asm__("r0") = operation;
  register const void* r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

uint64_t port_instructions(void) { return (uint64_t)(0xFFFFFFFFu - TIMER_VALUE) * TICK; }

static void reset(void) {
  TIMER_RELOAD = 0xFFFFFFFFu;
  TIMER_VALUE = 0xFFFFFFFFu;
  TIMER_CONTROL = 1u;
  bare_main();
}

static void fault(void) {
  port_write("fault\n");
  const uintptr_t reason[2] = {0x20026u, 2u};
  bare_call(0x20u, reason);
  for (;;) {
  }
}

typedef struct {
  uint8_t* stack;
  void (*handlers[15])(void);
} vectors;

__attribute__((section(".vectors"), used)) static const vectors kVectors = {
    stack_top,
    {reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault}};
