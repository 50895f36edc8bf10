/* A trial as a program of this machine. */
#include <stdio.h>

#include "port.h"

void port_write(const char* text) { fputs(text, stdout); }

uint64_t port_instructions(void) { return 0; }

uint32_t port_stack(void) { return 0; }

int main(void) { return trial(); }
