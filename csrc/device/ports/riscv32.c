/* rv32imac on QEMU's virt machine. */
#include "bare.h"
#include "port.h"

uintptr_t bare_call(uintptr_t operation, const void* argument) {
  register uintptr_t a0 __asm__("a0") = operation;
  register const void* a1 __asm__("a1") = argument;
  __asm__ volatile(
      ".option push\n.option norvc\n.balign 16\n"
      "slli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop"
      : "+r"(a0)
      : "r"(a1)
      : "memory");
  return a0;
}

uint64_t port_instructions(void) {
  uint32_t low, high, again;
  do {
    __asm__ volatile(
        ".option arch, +zicsr\ncsrr %0, minstreth\ncsrr %1, minstret\ncsrr %2, minstreth"
        : "=r"(high), "=r"(low), "=r"(again));
  } while (high != again);
  return ((uint64_t)high << 32) | low;
}

static void fault(void) {
  port_write("fault\n");
  const uintptr_t reason[2] = {0x20026u, 2u};
  bare_call(0x20u, reason);
  for (;;) {
  }
}

__attribute__((section(".vectors"), naked, used)) static void reset(void) {
  __asm__ volatile(".option arch, +zicsr\nla sp, stack_top\nla t0, %0\ncsrw mtvec, t0\nj bare_main"
                   :
                   : "i"(fault));
}
