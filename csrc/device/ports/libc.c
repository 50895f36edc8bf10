/* The two functions of libc that the runtime takes, where there is no libc. */
#include <stdint.h>

#include "bytes.h"

void* memcpy(void* to, const void* from, size_t count) {
  uint8_t* t = to;
  const uint8_t* f = from;
  while (count-- != 0u) *t++ = *f++;
  return to;
}

void* memset(void* to, int value, size_t count) {
  uint8_t* t = to;
  while (count-- != 0u) *t++ = (uint8_t)value;
  return to;
}
