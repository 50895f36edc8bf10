// Blocks of the pool as DLPack tensors.
#include <string.h>

#include <new>

#include "memory/interface.h"
#include "memory/pool.h"

namespace l1bn {
namespace {

// The layouts of dlpack.h, which the names are those of.
struct DLDevice {
  int32_t device_type, device_id;
};
struct DLDataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};

constexpr int32_t kCpu = 1;

struct Tensor {
  DLManagedTensor managed;  // first: its address is the tensor's
  Block block;
  int64_t shape[L1BN_MOST_DIMENSIONS], strides[L1BN_MOST_DIMENSIONS];
};

void drop(DLManagedTensor* managed) {
  Tensor* const tensor = reinterpret_cast<Tensor*>(managed);
  pool().give(tensor->block);
  delete tensor;
}

DLManagedTensor* take(const l1bn_tensor& wanted) {
  Tensor* const made = new (std::nothrow) Tensor;
  if (!made) return nullptr;
  made->block = pool().take(wanted.bytes);
  if (!made->block.mapping) {
    delete made;
    return nullptr;
  }
  memcpy(made->shape, wanted.shape, sizeof made->shape);
  memcpy(made->strides, wanted.strides, sizeof made->strides);
  made->managed = {{made->block.mapping,
                    {kCpu, 0},
                    static_cast<int32_t>(wanted.dimensions),
                    {static_cast<uint8_t>(wanted.code), static_cast<uint8_t>(wanted.bits), 1},
                    made->shape,
                    made->strides,
                    0},
                   nullptr,
                   drop};
  return &made->managed;
}

}  // namespace
}  // namespace l1bn

extern "C" {

void* l1bn_memory_take(const l1bn_tensor* tensor) { return l1bn::take(*tensor); }

void l1bn_memory_drop(void* tensor) { l1bn::drop(static_cast<l1bn::DLManagedTensor*>(tensor)); }

void l1bn_memory_look(l1bn_memory_state* state) {
  const l1bn::Pool::State found = l1bn::pool().state();
  *state = {found.used, found.kept, found.limit, found.mapped};
}

void l1bn_memory_limit(int64_t bytes) { l1bn::pool().set_limit(bytes); }

}  // extern "C"
