/* dot.h for a Cortex-M4 or M7: two products in an instruction, of halves of 32 bits. */
#ifndef L1BN_DOT_SIMD32_H
#define L1BN_DOT_SIMD32_H

#include <arm_acle.h>

/* Four numbers, aligned or not. */
static inline int8x4_t l1bn_four(const int8_t* from) {
  int8x4_t word;
  __builtin_memcpy(&word, from, sizeof(word));
  return word;
}

/* Numbers 0 and 2 as halves: __sxtb16. Numbers 1 and 3: */
static inline int16x2_t l1bn_odd(int8x4_t word) {
  int16x2_t halves;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(word));
  return halves;
}

/* The low halves of two, the first below; and the high ones. */
static inline int16x2_t l1bn_low(int16x2_t a, int16x2_t b) {
  int16x2_t halves;
  __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(halves) : "r"(a), "r"(b));
  return halves;
}

static inline int16x2_t l1bn_high(int16x2_t a, int16x2_t b) {
  int16x2_t halves;
  __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(halves) : "r"(b), "r"(a));
  return halves;
}

static inline int32_t l1bn_smlad4(const int8_t* a, const int8_t* b, int32_t total) {
  const int8x4_t x = l1bn_four(a), y = l1bn_four(b);
  total = __smlad(__sxtb16(x), __sxtb16(y), total);
  return __smlad(l1bn_odd(x), l1bn_odd(y), total);
}

static inline int32_t l1bn_dot(const int8_t* a, const int8_t* b, uint32_t count) {
  const int8_t* end = a + (count & ~7u);
  int32_t total = 0;
  for (; a != end; a += 8, b += 8) total = l1bn_smlad4(a + 4, b + 4, l1bn_smlad4(a, b, total));
  if ((count & 4u) != 0u) {
    total = l1bn_smlad4(a, b, total);
    a += 4;
    b += 4;
  }
  for (end = a + (count & 3u); a != end;) total += *a++ * *b++;
  return total;
}

static inline void l1bn_axpy2(int32_t* out, const int8_t* a, int32_t a_factor, const int8_t* b,
                              int32_t b_factor, uint32_t count) {
  const int16x2_t factors = l1bn_low((int16x2_t)a_factor, (int16x2_t)b_factor);
  const int8_t* end = a + (count & ~3u);
  for (; a != end; a += 4, b += 4, out += 4) {
    const int8x4_t x = l1bn_four(a), y = l1bn_four(b);
    const int16x2_t x02 = __sxtb16(x), y02 = __sxtb16(y), x13 = l1bn_odd(x), y13 = l1bn_odd(y);
    out[0] = __smlad(l1bn_low(x02, y02), factors, out[0]);
    out[1] = __smlad(l1bn_low(x13, y13), factors, out[1]);
    out[2] = __smlad(l1bn_high(x02, y02), factors, out[2]);
    out[3] = __smlad(l1bn_high(x13, y13), factors, out[3]);
  }
  for (end = a + (count & 3u); a != end;) *out++ += *a++ * a_factor + *b++ * b_factor;
}

static inline void l1bn_axpy(int32_t* out, const int8_t* a, int32_t factor, uint32_t count) {
  const int8_t* end = a + (count & ~3u);
  for (; a != end; a += 4, out += 4) {
    const int8x4_t x = l1bn_four(a);
    const int16x2_t x02 = __sxtb16(x), x13 = l1bn_odd(x);
    out[0] = __smlabb(x02, factor, out[0]);
    out[1] = __smlabb(x13, factor, out[1]);
    out[2] = __smlatb(x02, factor, out[2]);
    out[3] = __smlatb(x13, factor, out[3]);
  }
  for (end = a + (count & 3u); a != end;) *out++ += *a++ * factor;
}

#endif
