"""Activations in Triton: y from z, the slope from z, and both z and gradient from y.

Each follows its row of ``l1bn.activation``, in the same order.
"""

import triton
import triton.language as tl

#: Numbers of the activations in kernels.
ACTIVATIONS = {
    None: 0,
    "relu": 1,
    "relu6": 2,
    "leaky_relu": 3,
    "elu": 4,
    "silu": 5,
    "hardswish": 6,
    "hardsigmoid": 7,
    "gelu": 8,
    "gelu_tanh": 9,
    "mish": 10,
    "sigmoid": 11,
    "tanh": 12,
}

ROOT_HALF = tl.constexpr(0.7071067811865476)
ROOT_TWO_OVER_PI = tl.constexpr(0.7978845608028654)
DENSITY = tl.constexpr(0.3989422804014327)  # 1/√(2π)
CUBIC = tl.constexpr(0.044715)


@triton.jit
def sigmoid(z):
    """1/(1 + e⁻ᶻ), with no exponential that overflows."""
    e = tl.exp(-tl.abs(z))
    return tl.where(z >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def tanh(z):
    """The hyperbolic tangent, with no exponential that overflows."""
    e = tl.exp(-2.0 * tl.abs(z))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(z >= 0, t, -t)


@triton.jit
def tanh_of_softplus(z):
    """tanh(log(1 + eᶻ)) as a fraction: it is 1 in float64 too from 20 on."""
    e = tl.exp(tl.where(z > 20, 20.0, z))
    n = e * (e + 2.0)
    return n / (n + 2.0)


@triton.jit
def gelu_angle(z):
    """What GELU's approximation takes the hyperbolic tangent of."""
    return (z + z * z * z * CUBIC) * ROOT_TWO_OVER_PI


@triton.jit
def activate(z, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr):  # noqa: C901  one row each
    """Y from z; NaN stays NaN."""
    if ACTIVATION == 1:
        z = tl.where(z <= 0, 0.0, z)
    elif ACTIVATION == 2:
        z = tl.where(z <= 0, 0.0, tl.where(z >= 6, 6.0, z))
    elif ACTIVATION == 3:
        z = tl.where(z > 0, z, z * PARAMETER)
    elif ACTIVATION == 4:
        z = tl.where(z > 0, z, (tl.exp(tl.where(z > 0, 0.0, z)) - 1.0) * PARAMETER)
    elif ACTIVATION == 5:
        z = z * sigmoid(z)
    elif ACTIVATION == 6:
        z = z * tl.where(z <= -3, 0.0, tl.where(z >= 3, 6.0, z + 3.0)) / 6.0
    elif ACTIVATION == 7:
        z = tl.where(z <= -3, 0.0, tl.where(z >= 3, 6.0, z + 3.0)) / 6.0
    elif ACTIVATION == 8:
        z = 0.5 * z * (1.0 + tl.erf(z * ROOT_HALF))
    elif ACTIVATION == 9:
        z = 0.5 * z * (1.0 + tanh(gelu_angle(z)))
    elif ACTIVATION == 10:
        z = z * tanh_of_softplus(z)
    elif ACTIVATION == 11:
        z = sigmoid(z)
    elif ACTIVATION == 12:
        z = tanh(z)
    return z


@triton.jit
def slope(z, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr):  # noqa: C901  one row each
    """act'(z), as PyTorch defines it at the kinks."""
    one = tl.zeros_like(z) + 1.0
    found = one
    if ACTIVATION == 1:
        found = tl.where(z > 0, one, 0.0)
    elif ACTIVATION == 2:
        found = tl.where((z > 0) & (z < 6), one, 0.0)
    elif ACTIVATION == 3:
        found = tl.where(z > 0, one, PARAMETER)
    elif ACTIVATION == 4:
        found = tl.where(z > 0, one, tl.exp(tl.where(z > 0, 0.0, z)) * PARAMETER)
    elif ACTIVATION == 5:
        s = sigmoid(z)
        found = s * (1.0 + z * (1.0 - s))
    elif ACTIVATION == 6:
        found = tl.where(z >= 3, one, tl.where(z <= -3, 0.0, z / 3.0 + 0.5))
    elif ACTIVATION == 7:
        found = tl.where((z > -3) & (z < 3), one / 6.0, 0.0)
    elif ACTIVATION == 8:
        found = 0.5 * (1.0 + tl.erf(z * ROOT_HALF)) + z * tl.exp(-0.5 * z * z) * DENSITY
    elif ACTIVATION == 9:
        t = tanh(gelu_angle(z))
        inner = (1.0 + z * z * 3.0 * CUBIC) * ROOT_TWO_OVER_PI
        found = 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * inner
    elif ACTIVATION == 10:
        t = tanh_of_softplus(z)
        found = t + z * sigmoid(z) * (1.0 - t * t)
    elif ACTIVATION == 11:
        s = sigmoid(z)
        found = s * (1.0 - s)
    elif ACTIVATION == 12:
        t = tanh(z)
        found = 1.0 - t * t
    return found


@triton.jit
def from_output(g, y, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr):
    """The gradient of z and z itself from the output, for the first four."""
    z = y
    if ACTIVATION == 1:
        g = tl.where(y > 0, g, 0.0)  # NaN is not
    elif ACTIVATION == 2:
        g = tl.where((y > 0) & (y < 6), g, 0.0)
    elif ACTIVATION == 3:
        g = tl.where(y > 0, g, g * PARAMETER)
        z = tl.where(y > 0, y, y / PARAMETER)
    elif ACTIVATION == 4:
        g = tl.where(y > 0, g, g * (y + PARAMETER))
        # Where y has become −α no gradient passes, and z may be anything finite.
        inner = tl.where(y > 0, 0.0, y) / PARAMETER + 1.0
        z = tl.where(y > 0, y, tl.log(tl.where(inner < 1e-16, 1e-16, inner)))
    return g, z
