// The C interface: picks the best instruction set at load.
#include "common/dispatch.h"

#include "common/parallel.h"
#include "norm/kernels.h"

namespace l1bn {

#define L1BN_DECLARE(isa)        \
  namespace isa {                \
  extern const Kernels kKernels; \
  }
#if defined(L1BN_X86)
L1BN_DECLARE(avx512bf16)
L1BN_DECLARE(avx512)
L1BN_DECLARE(avx2)
#endif
L1BN_DECLARE(baseline)
#undef L1BN_DECLARE

namespace {

// `baseline` is SSE2 on x86-64 and NEON on 64-bit ARM.
constexpr Isa<Kernels> kIsas[] = {
#if defined(L1BN_X86)
    {"avx512bf16", &avx512bf16::kKernels, cpu::avx512bf16},
    {"avx512", &avx512::kKernels, cpu::avx512},
    {"avx2", &avx2::kKernels, cpu::avx2},
#endif
    {"baseline", &baseline::kKernels, cpu::always},
};

Dispatch dispatch(kIsas);

}  // namespace
}  // namespace l1bn

extern "C" {

int64_t l1bn_forward(const l1bn_forward_args* args) {
  return l1bn::dispatch.kernels().forward(*args);
}

int64_t l1bn_backward(const l1bn_backward_args* args) {
  return l1bn::dispatch.kernels().backward(*args);
}

int64_t l1bn_evaluate(const l1bn_evaluate_args* args) {
  return l1bn::dispatch.kernels().evaluate(*args);
}

int64_t l1bn_count_alive(const l1bn_alive_args* args) {
  return l1bn::dispatch.kernels().alive(*args, l1bn::kCount);
}

int64_t l1bn_pack_alive(const l1bn_alive_args* args) {
  return l1bn::dispatch.kernels().alive(*args, l1bn::kPack);
}

int64_t l1bn_unpack_alive(const l1bn_alive_args* args) {
  return l1bn::dispatch.kernels().alive(*args, l1bn::kUnpack);
}

int64_t l1bn_bits_bytes(int64_t outer, int64_t channels, int64_t inner) {
  const int64_t units =
      inner == 1 ? (channels + 15) / 16 * outer : outer * channels * ((inner + 15) / 16);
  return units * 2;
}

int64_t l1bn_abi(void) { return L1BN_ABI; }

L1BN_DISPATCH_CALLS(l1bn, l1bn::dispatch)

int64_t l1bn_threaded(void) { return l1bn::threaded(); }

}  // extern "C"
