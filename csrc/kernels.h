// What an instruction set offers to the dispatcher.
#pragma once
#include "l1bn.h"

namespace l1bn {

struct Kernels {
  int64_t (*forward)(const l1bn_forward_args&);
  int64_t (*backward)(const l1bn_backward_args&);
  int64_t (*evaluate)(const l1bn_evaluate_args&);
};

}  // namespace l1bn
