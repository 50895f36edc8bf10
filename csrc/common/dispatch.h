// Picks the best instruction set at load, for each of the three stacks of kernels.
#pragma once
#include <string.h>

#if defined(L1BN_X86)
#include <cpuid.h>
#endif

#include "common/status.h"

namespace l1bn {

// An instruction set's name, what it offers, and whether this processor can run it.
template <class Kernels>
struct Isa {
  const char* name;
  const Kernels* kernels;
  bool (*runs)();
};

// Instruction sets in the order of preference; the last one runs everywhere.
template <class Kernels, int kCount>
class Dispatch {
 public:
  explicit Dispatch(const Isa<Kernels> (&isas)[kCount]) : isas_(isas) {
#if defined(L1BN_X86)
    __builtin_cpu_init();
#endif
    for (const Isa<Kernels>& isa : isas_) {
      if (!isa.runs()) continue;
      if (!current_) current_ = &isa;
      if (*names_) strcat(names_, " ");
      strcat(names_, isa.name);
    }
  }

  const Kernels& kernels() const { return *current_->kernels; }
  const char* name() const { return current_->name; }
  // Those that can run here, separated by blanks.
  const char* names() const { return names_; }

  int64_t select(const char* name) {
    for (const Isa<Kernels>& isa : isas_) {
      if (strcmp(isa.name, name) != 0 || !isa.runs()) continue;
      current_ = &isa;
      return 0;
    }
    return L1BN_BAD_ISA;
  }

 private:
  const Isa<Kernels> (&isas_)[kCount];
  const Isa<Kernels>* current_ = nullptr;
  char names_[16 * kCount] = {};
};

// What a processor has.
namespace cpu {

inline bool always() { return true; }

#if defined(L1BN_X86)
inline bool avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("popcnt");
}
inline bool avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline bool avx512bf16() { return avx512() && __builtin_cpu_supports("avx512bf16"); }
inline bool avx512vnni() { return avx512() && __builtin_cpu_supports("avx512vnni"); }
// Read from the processor: not every compiler that has the instructions knows the name.
inline bool avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}
#endif

}  // namespace cpu
}  // namespace l1bn

// The functions that list, name and choose the instruction sets of a stack.
#define L1BN_DISPATCH_CALLS(prefix, dispatch)                  \
  const char* prefix##_isas(void) { return dispatch.names(); } \
  const char* prefix##_isa(void) { return dispatch.name(); }   \
  int64_t prefix##_select(const char* isa) { return dispatch.select(isa); }
