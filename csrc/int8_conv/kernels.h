// What an instruction set offers to the dispatcher of the 8-bit convolutions.
#pragma once
#include "int8_conv/interface.h"

namespace l1bn {
namespace int8_conv {

struct Kernels {
  int64_t (*forward)(const l1bn_int8_conv_forward_args&);
  int64_t (*input_gradient)(const l1bn_int8_conv_input_gradient_args&);
  int64_t (*weight_gradient)(const l1bn_int8_conv_weight_gradient_args&);
};

}  // namespace int8_conv
}  // namespace l1bn
