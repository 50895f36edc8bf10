// The scalars of a channel: what l1bn.fixed_point computes in Python integers, in 128 bits.
#pragma once
#include "int8_norm/interface.h"

namespace l1bn {
namespace int8_norm {

// What the element path of the forward pass needs.
struct ForwardScalars {
  int64_t deviation;  // not below the floor
  int32_t live, coefficient, offset, shift, reciprocal;
};

// False where a scalar leaves its type or the element path 32 bits.
bool forward_scalars(const l1bn_int8_spec& spec, int64_t count, int64_t total, int64_t deviation,
                     int64_t gamma, int64_t beta, ForwardScalars* out);

// Whether (x * coefficient + offset) >> shift, rounded, fits 32 bits for every 8-bit x.
bool fits(int64_t coefficient, int64_t offset, int64_t shift);

// Sums of a channel of the backward pass.
struct GradientSums {
  int64_t g, product;       // of g and of g * x
  int32_t low[2], high[2];  // least and largest g where x < threshold, x >= threshold;
                            // low > high where there is none
};

// What the element path of the backward pass needs: g * coefficient + offset[x >= threshold].
struct BackwardScalars {
  int32_t offset[2];
  int64_t dgamma;
  int64_t peak;  // largest magnitude of the sum
};

bool backward_scalars(const l1bn_int8_spec& spec, int64_t count, int64_t total, int64_t above,
                      int64_t deviation, bool live, int64_t coefficient, int64_t reciprocal,
                      const GradientSums& sums, BackwardScalars* out);

// The same where the statistics are constants, those of `count` elements; both offsets are 0.
BackwardScalars constant_scalars(int64_t count, int64_t total, int64_t deviation,
                                 int64_t coefficient, const GradientSums& sums);

// Right shift that brings magnitudes up to `peak` into `bits` bits, before rounding.
int64_t peak_shift(int64_t peak, int64_t bits);

}  // namespace int8_norm
}  // namespace l1bn
