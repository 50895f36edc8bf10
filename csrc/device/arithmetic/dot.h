/* The inner loops of every product, by the widest instructions that the processor has; with
 * L1BN_PLAIN, by those that all have. */
#ifndef L1BN_DOT_H
#define L1BN_DOT_H

#include <stdint.h>

#if defined(__ARM_FEATURE_MVE) && !defined(L1BN_PLAIN)
#include "dot_mve.h"
#elif defined(__ARM_FEATURE_SIMD32) && !defined(L1BN_PLAIN)
#include "dot_simd32.h"
#else

/* gcc unrolls a loop only where it is told to; clang vectorizes where it can. */
#if defined(__GNUC__) && !defined(__clang__)
#define L1BN_UNROLL _Pragma("GCC unroll 4")
#else
#define L1BN_UNROLL
#endif

/* Sum of products. */
static inline int32_t l1bn_dot(const int8_t* a, const int8_t* b, uint32_t count) {
  int32_t total = 0;
  L1BN_UNROLL
  for (uint32_t i = 0; i < count; ++i) total += a[i] * b[i];
  return total;
}

/* out += a * factor. */
static inline void l1bn_axpy(int32_t* out, const int8_t* a, int32_t factor, uint32_t count) {
  L1BN_UNROLL
  for (uint32_t i = 0; i < count; ++i) out[i] += a[i] * factor;
}

/* out += a * a_factor + b * b_factor; the factors have 8 bits. */
static inline void l1bn_axpy2(int32_t* out, const int8_t* a, int32_t a_factor, const int8_t* b,
                              int32_t b_factor, uint32_t count) {
  L1BN_UNROLL
  for (uint32_t i = 0; i < count; ++i) out[i] += a[i] * a_factor + b[i] * b_factor;
}

#endif
#endif
