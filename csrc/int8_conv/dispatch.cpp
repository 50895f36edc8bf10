// The C interface of the 8-bit convolutions: picks the best instruction set at load.
#include <string.h>

#if defined(L1BN_AVXVNNI)
#include <cpuid.h>
#endif

#include "int8_conv/kernels.h"

namespace l1bn {
namespace int8_conv {

#define L1BN_DECLARE(isa)         \
  namespace isa {                 \
  extern const Kernels kKernels;  \
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

struct Isa {
  const char* name;
  const Kernels* kernels;
  bool (*runs)();
};

#if defined(L1BN_X86)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
#if defined(L1BN_AVXVNNI)
// Read from the processor: not every compiler that has the instructions knows the name.
bool has_avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}
#endif
#endif
bool always() { return true; }

// `baseline` is what the compiler makes of plain C++: SSE2 on x86-64, NEON on 64-bit ARM.
const Isa kIsas[] = {
#if defined(L1BN_X86)
    {"avx512vnni", &avx512vnni::kKernels, has_avx512vnni},
#if defined(L1BN_AVXVNNI)
    {"avxvnni", &avxvnni::kKernels, has_avxvnni},
#endif
    {"avx512", &avx512::kKernels, has_avx512},
    {"avx2", &avx2::kKernels, has_avx2},
#endif
    {"baseline", &baseline::kKernels, always},
};

const Isa* best() {
#if defined(L1BN_X86)
  __builtin_cpu_init();
#endif
  for (const Isa& isa : kIsas)
    if (isa.runs()) return &isa;
  return nullptr;
}

const Isa* current = best();

const char* list() {
  static char text[64];
  if (text[0]) return text;
  for (const Isa& isa : kIsas) {
    if (!isa.runs()) continue;
    if (text[0]) strcat(text, " ");
    strcat(text, isa.name);
  }
  return text;
}

bool valid(const l1bn_int8_conv_problem& p) {
  return p.images >= 0 && p.height >= 1 && p.width >= 1 && p.channels >= 1 && p.outputs >= 1 &&
         p.kernel_height >= 1 && p.kernel_width >= 1 && p.stride >= 1 && p.padding >= 0 &&
         p.height + 2 * p.padding >= p.kernel_height && p.width + 2 * p.padding >= p.kernel_width;
}

}  // namespace
}  // namespace int8_conv
}  // namespace l1bn

extern "C" {

int64_t l1bn_int8_conv_forward(const l1bn_int8_conv_forward_args* args) {
  if (!l1bn::int8_conv::valid(args->problem)) return L1BN_INT8_CONV_BAD_SHAPE;
  return l1bn::int8_conv::current->kernels->forward(*args);
}

int64_t l1bn_int8_conv_input_gradient(const l1bn_int8_conv_input_gradient_args* args) {
  if (!l1bn::int8_conv::valid(args->problem)) return L1BN_INT8_CONV_BAD_SHAPE;
  return l1bn::int8_conv::current->kernels->input_gradient(*args);
}

int64_t l1bn_int8_conv_weight_gradient(const l1bn_int8_conv_weight_gradient_args* args) {
  if (!l1bn::int8_conv::valid(args->problem)) return L1BN_INT8_CONV_BAD_SHAPE;
  return l1bn::int8_conv::current->kernels->weight_gradient(*args);
}

int64_t l1bn_int8_conv_abi(void) { return 1; }

const char* l1bn_int8_conv_isas(void) { return l1bn::int8_conv::list(); }

const char* l1bn_int8_conv_isa(void) { return l1bn::int8_conv::current->name; }

int64_t l1bn_int8_conv_select(const char* isa) {
  for (const l1bn::int8_conv::Isa& candidate : l1bn::int8_conv::kIsas) {
    if (strcmp(candidate.name, isa) != 0 || !candidate.runs()) continue;
    l1bn::int8_conv::current = &candidate;
    return 0;
  }
  return -1;
}

}  // extern "C"
