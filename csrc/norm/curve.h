// Activations that bend: everything but ReLU and ReLU6, which only clip.
//
// The kernels know of them two things. Forward passes a block of z through `apply`, before it is
// rounded to a narrower type. Backward hands
// each block of the gradient to `bend` or, where z is read off the output, to `unbend`, and goes on
// with what comes back as if there were no activation. To add one: a struct with `value` and
// `slope` below, a line in `with_curve`, and its code in interface.h.
#pragma once
#include "norm/channel.h"
#include "norm/interface.h"
#include "norm/part.h"
#include "norm/vector_math.h"

namespace l1bn {
namespace L1BN_ISA {
namespace {

// s = 1 / (1 + e^-z), and q = 1 - s with all its digits.
template <class V>
struct Logistic {
  V s, q;
  explicit L1BN_INLINE Logistic(V z) {
    const V t = exp_of(-magnitude(z)), large = 1 / (1 + t), small = t * large;
    s = (z >= 0) ? large : small;
    q = (z >= 0) ? small : large;
  }
};

// Each has value(z, p) and slope(z, p) of a vector, p being the parameter.
struct LeakyRelu {
  template <class V>
  static L1BN_INLINE V value(V z, V p) {
    return (z > 0) ? z : z * p;
  }
  template <class V>
  static L1BN_INLINE V slope(V z, V p) {
    return (z > 0) ? all_of<V>(1) : p;
  }
  // z and the slope from the output y.
  template <class V>
  static L1BN_INLINE void invert(V y, V p, V* z, V* slope_of_z) {
    *z = (y > 0) ? y : y / p;
    *slope_of_z = (y > 0) ? all_of<V>(1) : p;
  }
};

struct Elu {
  template <class V>
  static L1BN_INLINE V value(V z, V p) {
    const V below = p * expm1_of(limited(z, -1e4, 0));
    return (z > 0) ? z : below;
  }
  template <class V>
  static L1BN_INLINE V slope(V z, V p) {
    const V below = p * exp_of(limited(z, -1e4, 0));
    return (z > 0) ? all_of<V>(1) : below;
  }
  template <class V>
  static L1BN_INLINE void invert(V y, V p, V* z, V* slope_of_z) {
    // Where y has become -p no gradient passes, and z may be anything finite.
    const double least = sizeof(y[0]) == 4 ? 6e-8 : 1.2e-16;
    const V below = log1p_of(limited(y / p, least - 1, 0));
    *z = (y > 0) ? y : below;
    *slope_of_z = (y > 0) ? all_of<V>(1) : y + p;
  }
};

struct Silu {
  template <class V>
  static L1BN_INLINE V value(V z, V) {
    return z * Logistic<V>(z).s;
  }
  template <class V>
  static L1BN_INLINE V slope(V z, V) {
    const Logistic<V> of(z);
    return of.s * (1 + z * of.q);
  }
};

struct Hardswish {
  template <class V>
  static L1BN_INLINE V value(V z, V) {
    return z * limited(z + 3, 0, 6) / 6;
  }
  template <class V>
  static L1BN_INLINE V slope(V z, V) {
    const V one = all_of<V>(1), inside = (z <= -3) ? V{} : z / 3 + all_of<V>(0.5);
    return (z >= 3) ? one : inside;
  }
};

struct Hardsigmoid {
  template <class V>
  static L1BN_INLINE V value(V z, V) {
    return limited(z + 3, 0, 6) / 6;
  }
  template <class V>
  static L1BN_INLINE V slope(V z, V) {
    return ((z > -3) & (z < 3)) ? all_of<V>(1.0 / 6) : V{};
  }
};

// Φ(z), the share of a Gaussian below z.
struct Gelu {
  template <class V>
  static L1BN_INLINE V value(V z, V) {
    const V half = all_of<V>(0.5) * tail_of(magnitude(z) * all_of<V>(M_SQRT1_2)).erfc;
    return z * ((z >= 0) ? 1 - half : half);
  }
  template <class V>
  static L1BN_INLINE V slope(V z, V) {
    const auto tail = tail_of(magnitude(z) * all_of<V>(M_SQRT1_2));
    const V half = all_of<V>(0.5) * tail.erfc;
    const V share = (z >= 0) ? 1 - half : half;
    return share + z * tail.density * all_of<V>(0.3989422804014326779);
  }
};

// z·(1 + tanh u) / 2 is z·logistic(2u).
struct GeluTanh {
  static constexpr double kRootTwice = 1.5957691216057307117, kCubic = 0.044715;  // 2·√(2/π)
  template <class V>
  static L1BN_INLINE V value(V z, V) {
    return z * Logistic<V>(twice(z)).s;
  }
  template <class V>
  static L1BN_INLINE V slope(V z, V) {
    const Logistic<V> of(twice(z));
    const V inner = all_of<V>(kRootTwice) * (1 + all_of<V>(3 * kCubic) * z * z);
    return of.s * (1 + z * of.q * inner);
  }

 private:
  template <class V>
  static L1BN_INLINE V twice(V z) {
    return all_of<V>(kRootTwice) * (z + all_of<V>(kCubic) * z * z * z);
  }
};

// With t = e^-|z|, tanh(log(1 + e^z)) is a quotient of polynomials of t.
struct Mish {
  template <class V>
  static L1BN_INLINE V value(V z, V) {
    const V t = exp_of(-magnitude(z));
    return z * gate(z, t);
  }
  template <class V>
  static L1BN_INLINE V slope(V z, V) {
    const V t = exp_of(-magnitude(z)), below = bottom(z, t);
    const V top = 4 * t * (1 + t) * ((z >= 0) ? t : all_of<V>(1));
    return gate(z, t) + z * top / (below * below);
  }

 private:
  template <class V>
  static L1BN_INLINE V bottom(V z, V t) {
    return (z >= 0) ? 1 + 2 * t + 2 * t * t : t * t + 2 * t + 2;
  }
  template <class V>
  static L1BN_INLINE V gate(V z, V t) {
    const V top = (z >= 0) ? 1 + 2 * t : t * t + 2 * t;
    return top / bottom(z, t);
  }
};

struct Sigmoid {
  template <class V>
  static L1BN_INLINE V value(V z, V) {
    return Logistic<V>(z).s;
  }
  template <class V>
  static L1BN_INLINE V slope(V z, V) {
    const Logistic<V> of(z);
    return of.s * of.q;
  }
};

struct Tanh {
  template <class V>
  static L1BN_INLINE V value(V z, V) {
    return tanh_of(z);
  }
  template <class V>
  static L1BN_INLINE V slope(V z, V) {
    const V t = exp_of(magnitude(z) * -2), sum = 1 + t;
    return 4 * t / (sum * sum);
  }
};

template <class F>
void with_curve(int64_t activation, F&& f) {
  switch (activation) {
    case L1BN_LEAKY_RELU:
      return f(LeakyRelu{});
    case L1BN_ELU:
      return f(Elu{});
    case L1BN_SILU:
      return f(Silu{});
    case L1BN_HARDSWISH:
      return f(Hardswish{});
    case L1BN_HARDSIGMOID:
      return f(Hardsigmoid{});
    case L1BN_GELU:
      return f(Gelu{});
    case L1BN_GELU_TANH:
      return f(GeluTanh{});
    case L1BN_MISH:
      return f(Mish{});
    case L1BN_SIGMOID:
      return f(Sigmoid{});
    case L1BN_TANH:
      return f(Tanh{});
    default:
      return;
  }
}

// Elements that are passed through an activation between two looks at which one it is.
constexpr int64_t kBend = 256;

// f(vector) over n elements in place, and whatever the last vector holds behind them.
template <class A, class F>
L1BN_INLINE void each_vector(A* v, int64_t n, F&& f) {
  using V = typename Pack<A>::V;
  constexpr int wide = Pack<A>::kWide;
  for (int64_t i = 0; i < n; i += wide) {
    V value;
    memcpy(&value, v + i, sizeof value);
    value = f(value);
    memcpy(v + i, &value, sizeof value);
  }
}

// z to act(z).
template <class A>
__attribute__((noinline)) void bend_values(int64_t activation, A parameter, A* v, int64_t n) {
  using V = typename Pack<A>::V;
  const V p = parameter - V{};
  with_curve(activation, [&](auto curve) {
    each_vector(v, n, [&](V z) L1BN_INLINED { return decltype(curve)::value(z, p); });
  });
}

// z to act'(z).
template <class A>
__attribute__((noinline)) void bend_slopes(int64_t activation, A parameter, A* v, int64_t n) {
  using V = typename Pack<A>::V;
  const V p = parameter - V{};
  with_curve(activation, [&](auto curve) {
    each_vector(v, n, [&](V z) L1BN_INLINED { return decltype(curve)::slope(z, p); });
  });
}

// Whether a gradient can wait in a tensor of its type for the second pass as it is computed.
template <class T>
constexpr bool kHolds = sizeof(T) == sizeof(Acc<T>);

// Whether backward sums over the channels.
inline bool has_sums(const l1bn_backward_args& a) { return !a.frozen || a.dweight || a.dbias; }

// Where the pass for the sums leaves the gradient of z for the pass that writes: in the tensor
// which that will write. Null where it is not there to begin with, or would lose digits.
template <class T>
T* held_gradient(const l1bn_backward_args& a) {
  if (!kHolds<T> || !bends(a.problem.activation) || !has_sums(a)) return nullptr;
  return static_cast<T*>(a.dresidual ? a.dresidual : a.dx);
}

// g = grad · act'(z), over z in `g`; it also goes to `held`, where that is not null, past the
// caches where `stream` says so. Whole packs are written to `g`.
template <class T>
__attribute__((noinline)) void bend_gradients(int64_t activation, Acc<T> parameter, const T* grad,
                                              Acc<T>* g, T* held, bool stream, int64_t n) {
  using P = Pack<Acc<T>>;
  using V = typename P::V;
  const V p = parameter - V{};
  with_curve(activation, [&](auto curve) {
    for_packs(n, [&](auto how, int64_t i) L1BN_INLINED {
      const P z = P::load(g + i);
      P out = how.get(grad + i);
      L1BN_UNROLL
      for (int k = 0; k < P::kParts; ++k) out.v[k] = out.v[k] * decltype(curve)::slope(z.v[k], p);
      out.store(g + i);
      if (!kHolds<T> || !held) return;
      if (stream)
        how.stream(held + i, out);
      else
        how.put(held + i, out);
    });
  });
}

// y to z, and act'(z) beside it, for the two that can be inverted.
template <class A>
__attribute__((noinline)) void invert_values(int64_t activation, A parameter, A* v, A* slopes,
                                             int64_t n) {
  using V = typename Pack<A>::V;
  const V p = parameter - V{};
  auto with = [&](auto curve) {
    for (int64_t i = 0; i < n; i += Pack<A>::kWide) {
      V y, z, slope;
      memcpy(&y, v + i, sizeof y);
      decltype(curve)::invert(y, p, &z, &slope);
      memcpy(v + i, &z, sizeof z);
      memcpy(slopes + i, &slope, sizeof slope);
    }
  };
  if (activation == L1BN_ELU)
    with(Elu{});
  else
    with(LeakyRelu{});
}

// An activation as the kernels of an element type use it.
template <class T>
class Curve {
  using A = Acc<T>;
  using P = Pack<A>;

 public:
  explicit Curve(const l1bn_problem& p) : activation_(p.activation), parameter_(A(p.parameter)) {}

  explicit operator bool() const { return bends(activation_); }

  // Of a pack, or of one element.
  template <class Z>
  Z value(Z z) const {
    A lanes[kLanes];
    bend_values(activation_, parameter_, lanes, put(z, lanes));
    return get<Z>(lanes);
  }
  template <class Z>
  Z slope(Z z) const {
    A lanes[kLanes];
    bend_slopes(activation_, parameter_, lanes, put(z, lanes));
    return get<Z>(lanes);
  }
  // z of an output y.
  template <class Z>
  Z inverse(Z y, Z* slope) const {
    A lanes[kLanes], slopes[kLanes];
    invert_values(activation_, parameter_, lanes, slopes, put(y, lanes));
    *slope = get<Z>(slopes);
    return get<Z>(lanes);
  }

  // y = act(y), in place; of a type that is stored as it is computed.
  void apply(A* y, int64_t n) const {
    const int64_t whole = n / kLanes * kLanes;
    bend_values(activation_, parameter_, y, whole);
    if (whole == n) return;
    const Part rest{int(n - whole)};
    rest.put(y + whole, value(rest.get(y + whole)));
  }
  // y = act(z), rounded once. z has room for whole packs, and is used up.
  void apply(A* z, T* y, int64_t n) const {
    bend_values(activation_, parameter_, z, n);
    for_packs(n, [&](auto how, int64_t i) L1BN_INLINED { how.put(y + i, P::load(z + i)); });
  }

  // g = grad · act'(z), over z in `g`; see bend_gradients.
  void gradient(const T* grad, A* g, T* held, bool stream, int64_t n) const {
    bend_gradients(activation_, parameter_, grad, g, held, stream, n);
  }

  // g = grad · act'(z) and z less the residual, from the output y; `z` may be null. Whole packs are
  // written to them. g also goes to `held`, where that is not null.
  void unbend(const T* grad, const T* y, const T* residual, A* g, A* z, T* held, int64_t n) const {
    A buffer[kBend], slopes[kBend];
    for_parts(n, [&](int64_t from, int64_t count) {
      for_packs(count,
                [&](auto how, int64_t i) L1BN_INLINED { how.get(y + from + i).store(buffer + i); });
      invert_values(activation_, parameter_, buffer, slopes, count);
      for_packs(count, [&](auto how, int64_t i) L1BN_INLINED {
        const P of_z = how.get(grad + from + i) * P::load(slopes + i);
        of_z.store(g + from + i);
        if (kHolds<T> && held) how.put(held + from + i, of_z);
        if (!z) return;
        P before = P::load(buffer + i);
        if (residual) before = before - how.get(residual + from + i);
        before.store(z + from + i);
      });
    });
  }

 private:
  template <class F>
  static L1BN_INLINE void for_parts(int64_t n, F&& f) {
    for (int64_t from = 0; from < n; from += kBend) {
      const int64_t count = n - from < kBend ? n - from : kBend;
      f(from, count);
    }
  }

  // To memory for a vector of the instruction set or more; how many elements that are.
  static L1BN_INLINE int64_t put(const P& z, A* lanes) {
    z.store(lanes);
    return kLanes;
  }
  static L1BN_INLINE int64_t put(A z, A* lanes) {
    for (int i = 0; i < Pack<A>::kWide; ++i) lanes[i] = z;
    return 1;
  }
  template <class Z>
  static L1BN_INLINE Z get(const A* lanes) {
    if constexpr (sizeof(Z) == sizeof(A))
      return lanes[0];
    else
      return P::load(lanes);
  }

  int64_t activation_;
  A parameter_;
};

}  // namespace
}  // namespace L1BN_ISA
}  // namespace l1bn
