// The C interface of the 8-bit convolutions: picks the best instruction set at load.
#include "common/dispatch.h"

#include "int8_conv/kernels.h"

namespace l1bn {
namespace int8_conv {

#define L1BN_DECLARE(isa)        \
  namespace isa {                \
  extern const Kernels kKernels; \
  }
#if defined(L1BN_X86)
L1BN_DECLARE(avx512vnni)
L1BN_DECLARE(avx512)
#if defined(L1BN_AVXVNNI)
L1BN_DECLARE(avxvnni)
#endif
L1BN_DECLARE(avx2)
#endif
L1BN_DECLARE(baseline)
#undef L1BN_DECLARE

namespace {

// `baseline` is what the compiler makes of plain C++: SSE2 on x86-64, NEON on 64-bit ARM.
constexpr Isa<Kernels> kIsas[] = {
#if defined(L1BN_X86)
    {"avx512vnni", &avx512vnni::kKernels, cpu::avx512vnni},
#if defined(L1BN_AVXVNNI)
    {"avxvnni", &avxvnni::kKernels, cpu::avxvnni},
#endif
    {"avx512", &avx512::kKernels, cpu::avx512},
    {"avx2", &avx2::kKernels, cpu::avx2},
#endif
    {"baseline", &baseline::kKernels, cpu::always},
};

Dispatch dispatch(kIsas);

bool valid(const l1bn_int8_conv_problem& p) {
  if (p.images < 0 || p.height < 1 || p.width < 1 || p.channels < 1 || p.outputs < 1 ||
      p.kernel_height < 1 || p.kernel_width < 1 || p.stride_down < 1 || p.stride_across < 1 ||
      p.dilation_down < 1 || p.dilation_across < 1 || p.groups < 1)
    return false;
  return p.top >= 0 && p.bottom >= 0 && p.left >= 0 && p.right >= 0 && p.channels % p.groups == 0 &&
         p.outputs % p.groups == 0 && p.height + p.top + p.bottom >= span_down(p) &&
         p.width + p.left + p.right >= span_across(p);
}

}  // namespace
}  // namespace int8_conv
}  // namespace l1bn

extern "C" {

int64_t l1bn_int8_conv_forward(const l1bn_int8_conv_forward_args* args) {
  if (!l1bn::int8_conv::valid(args->problem)) return L1BN_BAD_SHAPE;
  return l1bn::int8_conv::dispatch.kernels().forward(*args);
}

int64_t l1bn_int8_conv_input_gradient(const l1bn_int8_conv_input_gradient_args* args) {
  if (!l1bn::int8_conv::valid(args->problem)) return L1BN_BAD_SHAPE;
  return l1bn::int8_conv::dispatch.kernels().input_gradient(*args);
}

int64_t l1bn_int8_conv_weight_gradient(const l1bn_int8_conv_weight_gradient_args* args) {
  if (!l1bn::int8_conv::valid(args->problem)) return L1BN_BAD_SHAPE;
  return l1bn::int8_conv::dispatch.kernels().weight_gradient(*args);
}

L1BN_DISPATCH_CALLS(l1bn_int8_conv, l1bn::int8_conv::dispatch)

}  // extern "C"
