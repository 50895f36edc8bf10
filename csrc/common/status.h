// What every call of the C interfaces returns where it does not succeed: one table for all of them.
//
// A call returns 0, or the number (0 or more, or any number above L1BN_ERROR) that its interface
// documents. src/l1bn/ops/native/library.py has the same table, with a message for each.
#pragma once
#include <stdint.h>

// Every error is this or below. Far from any number that a kernel returns, exponents below 0 too.
#define L1BN_ERROR (-(int64_t(1) << 40))

#define L1BN_NO_MEMORY L1BN_ERROR
// An element type that the call does not know.
#define L1BN_BAD_DTYPE (L1BN_ERROR - 1)
// A size below 1 (images: below 0), or a kernel larger than the padded image.
#define L1BN_BAD_SHAPE (L1BN_ERROR - 2)
// A scalar of a channel leaves the 32 bits of the integer element path.
#define L1BN_TOO_WIDE (L1BN_ERROR - 3)
// An instruction set that is not compiled in, or that this processor cannot run.
#define L1BN_BAD_ISA (L1BN_ERROR - 4)
