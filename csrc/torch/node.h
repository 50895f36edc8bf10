// A layer's call in training as a node of autograd, in C++.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <optional>

#include "tensors.h"

namespace l1bn {

struct Call {
  at::Tensor x, weight, bias, residual;  // all but x may be undefined
  at::Tensor running_mean, running_var;  // both or neither
  double momentum, eps, parameter;       // the last one is the activation's
  int64_t activation;                    // of l1bn_activation
  bool from_output;                      // the activation lets z be read off y of this dtype
};

// What backward keeps, in the order that Python knows it by: l1bn.ops.cpu.backend._Saved.
using Saved = std::array<at::Tensor, 8>;

// How a call is differentiated where more than the kernels is needed: a second derivative, a
// transform, tensors that came back otherwise than they were saved.
// `grads` are those of y and of
// the scale, `wanted` those of x, weight, bias and residual.
struct Question {
  std::array<at::Tensor, 2> grads;
  Saved saved;
  int64_t activation;
  double parameter, eps;
  Layout layout;
  std::array<bool, 4> wanted;
};
using Answer = std::array<at::Tensor, 4>;
// Set once, by the module; it asks Python.
extern Answer (*ask)(const Question&);

// The output, or nothing where a call is not of the common kind: Python then does the same with
// other tensors, or says what is wrong. Nothing has been changed in that case.
std::optional<at::Tensor> train(const Call& call);

}  // namespace l1bn
