// What an instruction set offers to the dispatcher of the 8-bit convolutions.
#pragma once
#include "int8_conv/interface.h"

namespace l1bn {
namespace int8_conv {

inline int64_t span_down(const l1bn_int8_conv_problem& p) {
  return (p.kernel_height - 1) * p.dilation_down + 1;
}
inline int64_t span_across(const l1bn_int8_conv_problem& p) {
  return (p.kernel_width - 1) * p.dilation_across + 1;
}
inline int64_t out_height(const l1bn_int8_conv_problem& p) {
  return (p.height + p.top + p.bottom - span_down(p)) / p.stride_down + 1;
}
inline int64_t out_width(const l1bn_int8_conv_problem& p) {
  return (p.width + p.left + p.right - span_across(p)) / p.stride_across + 1;
}

struct Kernels {
  int64_t (*forward)(const l1bn_int8_conv_forward_args&);
  int64_t (*input_gradient)(const l1bn_int8_conv_input_gradient_args&);
  int64_t (*weight_gradient)(const l1bn_int8_conv_weight_gradient_args&);
};

}  // namespace int8_conv
}  // namespace l1bn
