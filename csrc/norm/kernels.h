// What an instruction set offers to the dispatcher.
#pragma once
#include "norm/interface.h"

namespace l1bn {

// What to do with the elements that an activation let pass.
enum Alive { kCount, kPack, kUnpack };

struct Kernels {
  int64_t (*forward)(const l1bn_forward_args&);
  int64_t (*backward)(const l1bn_backward_args&);
  int64_t (*evaluate)(const l1bn_evaluate_args&);
  int64_t (*alive)(const l1bn_alive_args&, Alive);
};

}  // namespace l1bn
