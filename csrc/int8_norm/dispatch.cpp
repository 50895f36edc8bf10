// The C interface of the 8-bit normalization: picks the best instruction set at load.
#include <string.h>

#include "int8_norm/kernels.h"

namespace l1bn {
namespace int8_norm {

#define L1BN_DECLARE(isa)         \
  namespace isa {                 \
  extern const Kernels kKernels;  \
  }
#if defined(L1BN_X86)
L1BN_DECLARE(avx512)
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
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
#endif
bool always() { return true; }

const Isa kIsas[] = {
#if defined(L1BN_X86)
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

}  // namespace
}  // namespace int8_norm
}  // namespace l1bn

using l1bn::int8_norm::current;

extern "C" {

int64_t l1bn_int8_rescale(const l1bn_int8_rescale_args* args) {
  return current->kernels->rescale(*args);
}
int64_t l1bn_int8_peak(const l1bn_int8_peak_args* args) { return current->kernels->peak(*args); }
int64_t l1bn_int8_norm_forward(const l1bn_int8_norm_forward_args* args) {
  return current->kernels->forward(*args);
}
int64_t l1bn_int8_norm_apply(const l1bn_int8_norm_apply_args* args) {
  return current->kernels->apply(*args);
}
int64_t l1bn_int8_norm_backward(const l1bn_int8_norm_backward_args* args) {
  return current->kernels->backward(*args);
}
int64_t l1bn_int8_add(const l1bn_int8_add_args* args) { return current->kernels->add(*args); }
int64_t l1bn_int8_sgd(const l1bn_int8_sgd_args* args) { return current->kernels->sgd(*args); }

int64_t l1bn_int8_norm_abi(void) { return 1; }

const char* l1bn_int8_norm_isas(void) { return l1bn::int8_norm::list(); }

const char* l1bn_int8_norm_isa(void) { return current->name; }

int64_t l1bn_int8_norm_select(const char* isa) {
  for (const l1bn::int8_norm::Isa& candidate : l1bn::int8_norm::kIsas) {
    if (strcmp(candidate.name, isa) != 0 || !candidate.runs()) continue;
    current = &candidate;
    return 0;
  }
  return -1;
}

}  // extern "C"
