// The native library's functions, found at run time: this code is compiled where torch is, the
// library is not.
#pragma once
#include "memory/interface.h"
#include "norm/interface.h"

namespace l1bn {

struct Library {
  decltype(&l1bn_forward) forward = nullptr;
  decltype(&l1bn_backward) backward = nullptr;
  decltype(&l1bn_bits_bytes) bits_bytes = nullptr;
  decltype(&l1bn_memory_take) take = nullptr;
  decltype(&l1bn_memory_look) look = nullptr;
  // What l1bn.ops.cpu has decided, and explains: from how many bytes on results come from the pool
  // (memory.POOLED), and by dtype, up to which (|beta| + max|residual|) / |gamma| x_hat is
  // recovered (kernels.RECOVERY_LIMIT).
  long long pooled = 0;
  double recoverable[4] = {};

  // Opens the file that Python has loaded. An empty text, or what is wrong.
  const char* open(const char* path);
};

// Set once, when the module is given the library's path.
Library& library();

}  // namespace l1bn
