// The C interface: picks the best instruction set at load.
#include <string.h>

#include "norm/kernels.h"
#include "common/parallel.h"

namespace l1bn {

#define L1BN_DECLARE(isa)         \
  namespace isa {                 \
  extern const Kernels kKernels;  \
  }
#if defined(L1BN_X86)
L1BN_DECLARE(avx512bf16)
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
bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
bool always() { return true; }

// `baseline` is SSE2 on x86-64 and NEON on 64-bit ARM.
const Isa kIsas[] = {
#if defined(L1BN_X86)
    {"avx512bf16", &avx512bf16::kKernels, has_avx512bf16},
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
}  // namespace l1bn

extern "C" {

int64_t l1bn_forward(const l1bn_forward_args* args) {
  return l1bn::current->kernels->forward(*args);
}

int64_t l1bn_backward(const l1bn_backward_args* args) {
  return l1bn::current->kernels->backward(*args);
}

int64_t l1bn_evaluate(const l1bn_evaluate_args* args) {
  return l1bn::current->kernels->evaluate(*args);
}

int64_t l1bn_count_alive(const l1bn_alive_args* args) {
  return l1bn::current->kernels->alive(*args, l1bn::kCount);
}

int64_t l1bn_pack_alive(const l1bn_alive_args* args) {
  return l1bn::current->kernels->alive(*args, l1bn::kPack);
}

int64_t l1bn_unpack_alive(const l1bn_alive_args* args) {
  return l1bn::current->kernels->alive(*args, l1bn::kUnpack);
}

int64_t l1bn_bits_bytes(int64_t outer, int64_t channels, int64_t inner) {
  const int64_t units =
      inner == 1 ? (channels + 15) / 16 * outer : outer * channels * ((inner + 15) / 16);
  return units * 2;
}

int64_t l1bn_abi(void) { return 6; }

const char* l1bn_isas(void) { return l1bn::list(); }

const char* l1bn_isa(void) { return l1bn::current->name; }

int64_t l1bn_select(const char* isa) {
  for (const l1bn::Isa& candidate : l1bn::kIsas) {
    if (strcmp(candidate.name, isa) != 0 || !candidate.runs()) continue;
    l1bn::current = &candidate;
    return 0;
  }
  return -1;
}

int64_t l1bn_threaded(void) { return l1bn::threaded(); }

}  // extern "C"
