#include "bare.h"

#include "bytes.h"
#include "port.h"

#define SYS_WRITE0 0x04u
#define SYS_EXIT_EXTENDED 0x20u
#define APPLICATION_EXIT 0x20026u
#define MARK 0xA5u
#define MARGIN 256u /* of the stack in use while it is marked */

void port_write(const char* text) { bare_call(SYS_WRITE0, text); }

uint32_t port_stack(void) {
  const uint8_t* at = stack_end;
  while (at < stack_top && *at == MARK) ++at;
  return (uint32_t)(stack_top - at);
}

void bare_main(void) {
  const uintptr_t limit = (uintptr_t)__builtin_frame_address(0) - MARGIN;
  memcpy(data_start, data_load, (size_t)(data_end - data_start));
  memset(bss_start, 0, (size_t)(bss_end - bss_start));
  for (uint8_t* at = stack_end; (uintptr_t)at < limit; ++at) *at = MARK;
  const uintptr_t result = (uintptr_t)trial();
  const uintptr_t reason[2] = {APPLICATION_EXIT, result};
  bare_call(SYS_EXIT_EXTENDED, reason);
  for (;;) {
  }
}
