/* What machines without an operating system have in common. */
#ifndef L1BN_BARE_H
#define L1BN_BARE_H

#include <stdint.h>

/* From the linker script. */
extern uint8_t data_load[], data_start[], data_end[], bss_start[], bss_end[], stack_end[],
    stack_top[];

/* Copy initialized data, zero the rest, mark the stack, run the trial, and end. */
void bare_main(void);

/* Semihosting: ask the debugger or the emulator. */
uintptr_t bare_call(uintptr_t operation, const void* argument);

#endif
