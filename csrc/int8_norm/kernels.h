// What an instruction set offers to the dispatcher.
#pragma once
#include "int8_norm/interface.h"

namespace l1bn {
namespace int8_norm {

struct Kernels {
  int64_t (*rescale)(const l1bn_int8_rescale_args&);
  int64_t (*peak)(const l1bn_int8_peak_args&);
  int64_t (*forward)(const l1bn_int8_norm_forward_args&);
  int64_t (*apply)(const l1bn_int8_norm_apply_args&);
  int64_t (*sides)(const l1bn_int8_norm_sides_args&);
  int64_t (*backward)(const l1bn_int8_norm_backward_args&);
  int64_t (*add)(const l1bn_int8_add_args&);
  int64_t (*sgd)(const l1bn_int8_sgd_args&);
};

}  // namespace int8_norm
}  // namespace l1bn
