// The C interface of the 8-bit normalization: picks the best instruction set at load.
#include "common/dispatch.h"

#include "int8_norm/kernels.h"

namespace l1bn {
namespace int8_norm {

#define L1BN_DECLARE(isa)        \
  namespace isa {                \
  extern const Kernels kKernels; \
  }
#if defined(L1BN_X86)
L1BN_DECLARE(avx512)
L1BN_DECLARE(avx2)
#endif
L1BN_DECLARE(baseline)
#undef L1BN_DECLARE

namespace {

constexpr Isa<Kernels> kIsas[] = {
#if defined(L1BN_X86)
    {"avx512", &avx512::kKernels, cpu::avx512},
    {"avx2", &avx2::kKernels, cpu::avx2},
#endif
    {"baseline", &baseline::kKernels, cpu::always},
};

Dispatch dispatch(kIsas);

}  // namespace
}  // namespace int8_norm
}  // namespace l1bn

using l1bn::int8_norm::dispatch;

extern "C" {

int64_t l1bn_int8_rescale(const l1bn_int8_rescale_args* args) {
  return dispatch.kernels().rescale(*args);
}
int64_t l1bn_int8_peak(const l1bn_int8_peak_args* args) { return dispatch.kernels().peak(*args); }
int64_t l1bn_int8_norm_forward(const l1bn_int8_norm_forward_args* args) {
  return dispatch.kernels().forward(*args);
}
int64_t l1bn_int8_norm_apply(const l1bn_int8_norm_apply_args* args) {
  return dispatch.kernels().apply(*args);
}
int64_t l1bn_int8_norm_sides(const l1bn_int8_norm_sides_args* args) {
  return dispatch.kernels().sides(*args);
}
int64_t l1bn_int8_norm_backward(const l1bn_int8_norm_backward_args* args) {
  return dispatch.kernels().backward(*args);
}
int64_t l1bn_int8_add(const l1bn_int8_add_args* args) { return dispatch.kernels().add(*args); }
int64_t l1bn_int8_sgd(const l1bn_int8_sgd_args* args) { return dispatch.kernels().sgd(*args); }

L1BN_DISPATCH_CALLS(l1bn_int8_norm, dispatch)

}  // extern "C"
