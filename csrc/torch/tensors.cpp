#include "tensors.h"

#include <ATen/DLConvertor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <algorithm>

#include "library.h"

namespace l1bn {
namespace {

std::optional<at::MemoryFormat> channels_last(const at::Tensor& tensor) {
  if (tensor.dim() == 4) return at::MemoryFormat::ChannelsLast;
  if (tensor.dim() == 5) return at::MemoryFormat::ChannelsLast3d;
  return std::nullopt;
}

bool has_rows(const at::Tensor& tensor) {
  const auto last = channels_last(tensor);
  return last && tensor.is_contiguous(*last);
}

// Memory of the pool, bytes side by side or like a tensor; undefined where there is none.
at::Tensor pooled(const at::Tensor* like, int64_t bytes) {
  const int64_t dimensions = like ? like->dim() : 1;
  if (bytes < library().pooled || dimensions > L1BN_MOST_DIMENSIONS) return {};
  l1bn_memory_state state;
  library().look(&state);
  if (state.limit == 0) return {};
  const DLDataType kind = like ? at::getDLDataType(*like) : DLDataType{kDLUInt, 8, 1};
  l1bn_tensor wanted{bytes, kind.code, kind.bits, dimensions, {}, {}};
  if (like) {
    std::copy_n(like->sizes().begin(), dimensions, wanted.shape);
    std::copy_n(like->strides().begin(), dimensions, wanted.strides);
  } else {
    wanted.shape[0] = bytes;
    wanted.strides[0] = 1;
  }
  void* const taken = library().take(&wanted);
  return taken ? at::fromDLPack(static_cast<DLManagedTensor*>(taken)) : at::Tensor();
}

}  // namespace

bool is_ordinary(const at::Tensor& tensor) {
  static const c10::DispatchKeySet plain = at::empty({0}, at::kFloat).key_set();
  return tensor.key_set() == plain;
}

bool is_watched() {
  const auto included = c10::impl::tls_local_dispatch_key_set().included_;
  return c10::impl::TorchDispatchModeTLS::stack_len() > 0 ||
         included.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         torch::jit::tracer::isTracing() ||
         torch::autograd::ForwardADLevel::try_get_by_idx(0) != nullptr;
}

int64_t code_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return L1BN_F32;
    case at::kBFloat16:
      return L1BN_BF16;
    case at::kHalf:
      return L1BN_F16;
    case at::kDouble:
      return L1BN_F64;
    default:
      return -1;
  }
}

std::optional<Layout> layout_of(const at::Tensor& tensor) {
  if (tensor.dim() < 2 || tensor.numel() == 0) return std::nullopt;
  const int64_t outer = tensor.size(0), channels = tensor.size(1);
  const int64_t inner = tensor.numel() / (outer * channels);
  if (tensor.is_contiguous()) {
    if (channels == 1) return Layout{1, 1, outer * inner, false};
    return Layout{outer, channels, inner, false};
  }
  if (has_rows(tensor)) return Layout{outer * inner, channels, 1, true};
  return std::nullopt;
}

bool lies_like(const at::Tensor& tensor, const at::Tensor& other, const Layout& layout) {
  return tensor.sizes() == other.sizes() && tensor.scalar_type() == other.scalar_type() &&
         (layout.rows ? has_rows(tensor) : tensor.is_contiguous());
}

bool is_vector(const at::Tensor& tensor, int64_t elements) {
  return !tensor.defined() ||
         (is_ordinary(tensor) && tensor.dim() == 1 && tensor.size(0) == elements &&
          tensor.is_contiguous() && code_of(tensor.scalar_type()) >= 0);
}

at::Tensor memory_like(const at::Tensor& tensor) {
  const at::Tensor found = pooled(&tensor, static_cast<int64_t>(tensor.nbytes()));
  return found.defined() ? found : at::empty_like(tensor);
}

at::Tensor memory_run(int64_t bytes) {
  const at::Tensor found = pooled(nullptr, bytes);
  return found.defined() ? found : at::empty({bytes}, at::kByte);
}

}  // namespace l1bn
