// How a call is cut: channels per batch, threads, streaming stores.
#pragma once
#include <stdint.h>

namespace l1bn {

struct Plan {
  int threads;
  bool streaming;  // outputs bypass the caches
  // Of layout `planes` only:
  int64_t batch;  // channels worked on together
  bool split;     // all threads share a batch's planes, instead of channels of their own each
};

// `touched` tensors of the element size are read more than once per channel.
Plan plan_planes(int64_t outer, int64_t channels, int64_t inner, int64_t element, int touched,
                 int64_t threads);
Plan plan_rows(int64_t rows, int64_t channels, int64_t element, int64_t threads);

// Ask for large pages behind a large fresh output: the page faults of a new mapping cost more than
// the arithmetic.
void expect_large(void* data, int64_t bytes);

}  // namespace l1bn
