/* A trial in a WebAssembly module: its host gives the page's `write`. */
#include "port.h"

__attribute__((import_module("page"), import_name("write"))) void page_write(const char* text);

void port_write(const char* text) { page_write(text); }

uint64_t port_instructions(void) { return 0; }

uint32_t port_stack(void) { return 0; }
