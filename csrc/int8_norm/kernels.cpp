// One instruction set's kernels. Compiled several times: L1BN_ISA names the namespace, the compiler
// flags choose the instructions.
#include "int8_norm/backward.h"
#include "int8_norm/update.h"

namespace l1bn {
namespace int8_norm {
namespace L1BN_ISA {

extern const Kernels kKernels;
const Kernels kKernels = {rescale, peak, forward, apply, sides, backward, add, sgd};

}  // namespace L1BN_ISA
}  // namespace int8_norm
}  // namespace l1bn
