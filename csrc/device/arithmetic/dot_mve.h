/* dot.h for a Cortex-M55: sixteen products in an instruction, or four with 32-bit sums. */
#ifndef L1BN_DOT_MVE_H
#define L1BN_DOT_MVE_H

#include <arm_mve.h>

static inline int32_t l1bn_dot(const int8_t* a, const int8_t* b, uint32_t count) {
  int32_t total = 0;
  for (uint32_t i = 0; i < count; i += 16u) {
    const mve_pred16_t left = vctp8q(count - i); /* lanes that there are numbers for */
    total = vmladavaq_p_s8(total, vldrbq_z_s8(a + i, left), vldrbq_z_s8(b + i, left), left);
  }
  return total;
}

static inline void l1bn_axpy(int32_t* out, const int8_t* a, int32_t factor, uint32_t count) {
  for (uint32_t i = 0; i < count; i += 4u) {
    const mve_pred16_t left = vctp32q(count - i);
    const int32x4_t sum =
        vmlaq_n_s32(vldrwq_z_s32(out + i, left), vldrbq_z_s32(a + i, left), factor);
    vstrwq_p_s32(out + i, sum, left);
  }
}

static inline void l1bn_axpy2(int32_t* out, const int8_t* a, int32_t a_factor, const int8_t* b,
                              int32_t b_factor, uint32_t count) {
  for (uint32_t i = 0; i < count; i += 4u) {
    const mve_pred16_t left = vctp32q(count - i);
    int32x4_t sum = vmlaq_n_s32(vldrwq_z_s32(out + i, left), vldrbq_z_s32(a + i, left), a_factor);
    sum = vmlaq_n_s32(sum, vldrbq_z_s32(b + i, left), b_factor);
    vstrwq_p_s32(out + i, sum, left);
  }
}

#endif
