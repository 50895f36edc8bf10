/* Masters of parameters, their 8-bit views, and their step. */
#ifndef L1BN_PARAMETER_H
#define L1BN_PARAMETER_H

#include "run.h"

/* 16-bit masters, in the state or in flash. */
static inline l1bn_i16* l1bn_master(const l1bn_run* run, const l1bn_parameter* p) {
  if (!p->learns) return (l1bn_i16*)(uintptr_t)p->fixed;
  return (l1bn_i16*)(void*)(run->state + p->master);
}

static inline int32_t l1bn_parameter_exponent(const l1bn_run* run, const l1bn_parameter* p) {
  return p->learns ? l1bn_numbers(run)[p->slot] : p->exponent;
}

/* A master shifted right to nearest (left if negative), in 8 bits. */
static inline int32_t l1bn_rounded(int32_t master, int32_t shift) {
  if (shift < 0) return (int32_t)l1bn_clip(l1bn_scaled(master, l1bn_min(-shift, 30)), -127, 127);
  const int32_t down = l1bn_min(shift, 30);
  return (int32_t)l1bn_clip((master + (((int32_t)1 << down) >> 1)) >> down, -127, 127);
}

/* The 8-bit code of a value of gamma or beta, which has `fraction` fraction bits. */
static inline int32_t l1bn_code(const l1bn_run* run, const l1bn_parameter* p, uint32_t place,
                                int32_t fraction) {
  const int32_t shift = -fraction - l1bn_parameter_exponent(run, p);
  return l1bn_rounded(l1bn_master(run, p)[place], shift);
}

/* Largest magnitude of the masters. */
uint32_t l1bn_master_peak(const l1bn_run* run, const l1bn_parameter* p);

/* A gradient: one of the two arrays. */
typedef struct {
  const int8_t* narrow;
  const l1bn_i64* wide;
  int32_t exponent;
  int32_t block; /* that it belongs to */
} l1bn_gradient;

/* One step of SGD with momentum and weight decay: l1bn.fixed_point.sgd_step, then make_room. */
void l1bn_sgd_step(const l1bn_run* run, const l1bn_parameter* p, const l1bn_gradient* gradient);

#endif
