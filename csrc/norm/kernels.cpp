// One instruction set's kernels. Compiled several times: L1BN_ISA names the namespace, the compiler
// flags choose the instructions. With AVX-512 BF16 the norms are compiled for bfloat16 only.
#include "norm/kernels.h"

#include "norm/compact.h"
#include "norm/narrow/backward.h"
#include "norm/narrow/forward.h"
#include "norm/narrow/scalar.h"
#include "norm/planes/backward.h"
#include "norm/planes/forward.h"
#include "norm/rows/backward.h"

namespace l1bn {

#if defined(L1BN_BF16_ONLY)
namespace avx512 {
extern const Kernels kKernels;
}
#endif
#if defined(L1BN_F32_FORWARD)
namespace L1BN_F32_FORWARD {
extern const Kernels kKernels;
}
#endif

namespace L1BN_ISA {
namespace {

template <class T>
int64_t forward_as(const l1bn_forward_args& a, bool frozen) {
  const l1bn_problem& p = a.problem;
  expect_large(a.y, p.outer * p.channels * p.inner * int64_t(sizeof(T)));
  if (is_slim(p)) return SlimForward<T>(a, frozen).run();
  if (is_small(p)) return SmallForward<T>(a, frozen).run();
  if (p.inner == 1)
    return RowsForward<T>(a, plan_rows(p.outer, p.channels, sizeof(T), p.threads), frozen).run();
  return PlanesForward<T>(a, plan_planes(p.outer, p.channels, p.inner, sizeof(T), 1, p.threads),
                          frozen)
      .run();
}

template <class T>
int64_t backward_as(const l1bn_backward_args& a) {
  const l1bn_problem& p = a.problem;
  const int64_t bytes = p.outer * p.channels * p.inner * int64_t(sizeof(T));
  if (a.dx && a.dx != a.grad) expect_large(a.dx, bytes);
  if (a.dresidual && a.dresidual != a.grad) expect_large(a.dresidual, bytes);
  if (is_slim(p)) return SlimBackward<T>(a).run();
  if (is_small(p)) return SmallBackward<T>(a).run();
  const int touched =
      1 + (a.x != nullptr) + (p.activation != L1BN_NONE && !(a.x && bends(p.activation)));
  if (p.inner == 1)
    return RowsBackward<T>(a, plan_rows(p.outer, p.channels, sizeof(T), p.threads)).run();
  return PlanesBackward<T>(a,
                           plan_planes(p.outer, p.channels, p.inner, sizeof(T), touched, p.threads))
      .run();
}

int64_t forward(const l1bn_forward_args& a, bool frozen) {
  switch (a.problem.dtype) {
    case L1BN_BF16:
      return forward_as<BFloat16>(a, frozen);
#if !defined(L1BN_BF16_ONLY)
#if !defined(L1BN_F32_FORWARD)
    case L1BN_F32:
      return forward_as<float>(a, frozen);
#endif
    case L1BN_F16:
      return forward_as<Half>(a, frozen);
    case L1BN_F64:
      return forward_as<double>(a, frozen);
#endif
    default:
      return L1BN_BAD_DTYPE;
  }
}

// The running statistics become the constants of a forward pass that computes none.
template <class A>
void constants(const l1bn_evaluate_args& a) {
  for (int64_t c = 0; c < a.problem.channels; ++c) {
    static_cast<A*>(a.mean)[c] = A(read_param(a.running_mean, a.running_dtype, c, 0));
    static_cast<A*>(a.mean)[a.problem.channels + c] = 0;
    static_cast<A*>(a.scale)[c] =
        A(sqrt(read_param(a.running_var, a.running_dtype, c, 1) + a.problem.eps));
  }
}

template <class A>
void update_running(const l1bn_forward_args& a) {
  const double count = double(a.problem.outer) * double(a.problem.inner);
  const double unbias = count / (count - 1), m = a.momentum;
  for (int64_t c = 0; c < a.problem.channels; ++c) {
    const double mean = static_cast<const A*>(a.mean)[c], scale = static_cast<const A*>(a.scale)[c];
    const double excess = scale * scale - a.problem.eps;  // a rounding below 0 at the floor
    const double var = excess < 0 ? 0 : excess * unbias;
    if (!__builtin_isfinite(mean) || !__builtin_isfinite(var)) continue;
    const double old_mean = read_param(a.running_mean, a.running_dtype, c, 0);
    const double old_var = read_param(a.running_var, a.running_dtype, c, 0);
    write_param(a.running_mean, a.running_dtype, c, (1 - m) * old_mean + m * mean);
    write_param(a.running_var, a.running_dtype, c, (1 - m) * old_var + m * var);
    // Finite as the buffers hold them, or as before.
    if (__builtin_isfinite(read_param(a.running_mean, a.running_dtype, c, 0)) &&
        __builtin_isfinite(read_param(a.running_var, a.running_dtype, c, 0)))
      continue;
    write_param(a.running_mean, a.running_dtype, c, old_mean);
    write_param(a.running_var, a.running_dtype, c, old_var);
  }
}

int64_t run_forward(const l1bn_forward_args& a) {
#if defined(L1BN_BF16_ONLY)
  if (a.problem.dtype != L1BN_BF16) return avx512::kKernels.forward(a);
#endif
#if defined(L1BN_F32_FORWARD)
  if (a.problem.dtype == L1BN_F32) return L1BN_F32_FORWARD::kKernels.forward(a);
#endif
  const int64_t bad = forward(a, false);
  if (bad < 0 || !a.running_mean) return bad;
  if (a.problem.dtype == L1BN_F64)
    update_running<double>(a);
  else
    update_running<float>(a);
  return bad;
}

int64_t run_evaluate(const l1bn_evaluate_args& a) {
#if defined(L1BN_BF16_ONLY)
  if (a.problem.dtype != L1BN_BF16) return avx512::kKernels.evaluate(a);
#endif
#if defined(L1BN_F32_FORWARD)
  if (a.problem.dtype == L1BN_F32) return L1BN_F32_FORWARD::kKernels.evaluate(a);
#endif
  if (a.problem.dtype == L1BN_F64)
    constants<double>(a);
  else
    constants<float>(a);
  l1bn_forward_args f = {};
  f.problem = a.problem;
  f.x = a.x;
  f.residual = a.residual;
  f.weight = a.weight;
  f.bias = a.bias;
  f.y = a.y;
  f.mean = a.mean;
  f.scale = a.scale;
  f.recoverable = a.recoverable;
  return forward(f, true);
}

int64_t run_backward(const l1bn_backward_args& a) {
#if defined(L1BN_BF16_ONLY)
  if (a.problem.dtype != L1BN_BF16) return avx512::kKernels.backward(a);
#endif
  switch (a.problem.dtype) {
    case L1BN_BF16:
      return backward_as<BFloat16>(a);
#if !defined(L1BN_BF16_ONLY)
    case L1BN_F32:
      return backward_as<float>(a);
    case L1BN_F16:
      return backward_as<Half>(a);
    case L1BN_F64:
      return backward_as<double>(a);
#endif
    default:
      return L1BN_BAD_DTYPE;
  }
}

}  // namespace

extern const Kernels kKernels;
const Kernels kKernels = {run_forward, run_backward, run_evaluate, run_alive};

}  // namespace L1BN_ISA
}  // namespace l1bn
