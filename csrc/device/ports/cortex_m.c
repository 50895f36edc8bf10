/* A Cortex-M, as QEMU has them. */
#include "bare.h"
#include "clock.h"
#include "port.h"

uintptr_t bare_call(uintptr_t operation, const void* argument) {
  register uintptr_t r0 __asm__("r0") = operation;
  register const void* r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

#define COPROCESSORS (*(volatile uint32_t*)0xE000ED88u)
#define VECTORS 0x00F00000u /* allow them */

static void reset(void) {
#ifdef __ARM_FEATURE_MVE
  COPROCESSORS |= VECTORS;
  __asm__ volatile("dsb\n isb" ::: "memory");
#endif
  clock_start();
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
