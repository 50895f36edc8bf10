// What a kernel may be given, and memory for what it returns.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

#include "norm/interface.h"

namespace l1bn {

// A dense tensor as the kernels see it, see norm/interface.h.
struct Layout {
  int64_t outer, channels, inner;
  bool rows;  // channels lie last: strides are those of channels_last
};

// A strided CPU tensor whose values lie at its address: the dispatch keys tell it from negative
// views, zero tensors, and those of transforms and modes.
bool is_ordinary(const at::Tensor& tensor);

// Whether somebody looks on who must see operations: a mode, a transform, a tracer.
bool is_watched();

// The kernels' code of a dtype, or -1.
int64_t code_of(at::ScalarType dtype);

// Layout of an ordinary tensor of two dimensions or more that has no gaps; else nothing.
std::optional<Layout> layout_of(const at::Tensor& tensor);

// Whether an ordinary tensor lies like another of that layout.
bool lies_like(const at::Tensor& tensor, const at::Tensor& other, const Layout& layout);

// Whether it is a vector of so many numbers without gaps; an undefined one is fine.
bool is_vector(const at::Tensor& tensor, int64_t elements);

// Memory with the shape and strides of a dense tensor; large ones come from the pool.
at::Tensor memory_like(const at::Tensor& tensor);
// Memory for bytes side by side.
at::Tensor memory_run(int64_t bytes);

inline void* address(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr() : nullptr;
}

}  // namespace l1bn
