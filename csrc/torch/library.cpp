#include "library.h"

#include <dlfcn.h>

namespace l1bn {
namespace {

template <class F>
bool find(void* handle, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(handle, name));
  return function != nullptr;
}

}  // namespace

const char* Library::open(const char* path) {
  void* const handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) return "cannot be opened";
  decltype(&l1bn_abi) abi = nullptr;
  if (!find(handle, "l1bn_abi", abi) || abi() != L1BN_ABI) return "has another interface";
  const bool whole =
      find(handle, "l1bn_forward", forward) && find(handle, "l1bn_backward", backward) &&
      find(handle, "l1bn_bits_bytes", bits_bytes) && find(handle, "l1bn_memory_take", take) &&
      find(handle, "l1bn_memory_look", look);
  return whole ? "" : "lacks a function";
}

Library& library() {
  static Library found;
  return found;
}

}  // namespace l1bn
