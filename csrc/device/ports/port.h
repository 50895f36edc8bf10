/* What a trial needs of the machine it runs on. */
#ifndef L1BN_PORT_H
#define L1BN_PORT_H

#include <stdint.h>

/* Write a text to whoever watches. */
void port_write(const char* text);

/* Instructions since the start, where the machine counts them; else 0. */
uint64_t port_instructions(void);

/* Bytes of stack in use at most so far, where the machine can tell; else 0. */
uint32_t port_stack(void);

/* The trial: every machine calls it and ends with its result. */
int trial(void);

#endif
