/* The inner loops of every product. */
#ifndef L1BN_DOT_H
#define L1BN_DOT_H

#include <stdint.h>

/* Sum of products. */
static inline int32_t l1bn_dot(const int8_t* a, const int8_t* b, uint32_t count) {
  int32_t total = 0;
  for (uint32_t i = 0; i < count; ++i) total += a[i] * b[i];
  return total;
}

/* out += a * factor. */
static inline void l1bn_axpy(int32_t* out, const int8_t* a, int32_t factor, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) out[i] += a[i] * factor;
}

#endif
