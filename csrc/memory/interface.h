// Memory for the large tensors that this library makes, handed to torch as DLPack tensors.
//
// A fresh page costs more than the arithmetic on it, and malloc gives large blocks back to the
// system as soon as they are free. So blocks are kept, up to a limit, and taken again. The system
// may have the pages of a kept block whenever it is short of memory (MADV_FREE).
//
// All functions may be called from any thread, and after fork() from the child too.
#pragma once
#include "common/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#if !defined(L1BN_API)
#define L1BN_API __attribute__((visibility("default")))
#endif

enum { L1BN_MOST_DIMENSIONS = 8 };

// Every field is 8 bytes wide, as in the other interfaces.
typedef struct {
  int64_t bytes;       // that the elements take, 1 or more
  int64_t code, bits;  // the element type as DLPack writes it
  int64_t dimensions;  // at most L1BN_MOST_DIMENSIONS
  int64_t shape[L1BN_MOST_DIMENSIONS], strides[L1BN_MOST_DIMENSIONS];
} l1bn_tensor;

// A DLManagedTensor of unwritten memory, or null where the system has none. Its deleter gives the
// memory back to the pool.
L1BN_API void* l1bn_memory_take(const l1bn_tensor* tensor);

// Give back a tensor that nobody has taken over.
L1BN_API void l1bn_memory_drop(void* tensor);

typedef struct {
  int64_t used;    // bytes in tensors
  int64_t kept;    // bytes kept for the next ones
  int64_t limit;   // most bytes to keep
  int64_t mapped;  // blocks asked of the system so far
} l1bn_memory_state;

L1BN_API void l1bn_memory_look(l1bn_memory_state* state);

// Keep at most so many bytes from now on. What is kept beyond them goes back to the system.
L1BN_API void l1bn_memory_limit(int64_t bytes);

#ifdef __cplusplus
}
#endif
