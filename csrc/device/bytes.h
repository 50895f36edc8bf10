/* The two functions of libc that the runtime takes; a machine without libc gives its own. */
#ifndef L1BN_BYTES_H
#define L1BN_BYTES_H

#include <stddef.h>

void* memcpy(void* to, const void* from, size_t count);
void* memset(void* to, int value, size_t count);

#endif
