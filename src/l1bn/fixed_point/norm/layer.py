"""L1BN as a layer of an 8-bit network: residual, ReLU, and errors of one common exponent.

``backward`` gives the fixed format of a hardware unit; here the input gradients of all channels
share the finest exponent that holds them, whatever exponent each channel's input has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from l1bn.fixed_point.formats import IntArray, Rounding, ScalarArray
from l1bn.fixed_point.norm.backward import (
    check_pair,
    l1_slopes,
    reduce_gradient,
    select_offset,
)
from l1bn.fixed_point.norm.normalize import Forward, l1_forward
from l1bn.fixed_point.norm.spec import NormSpec
from l1bn.fixed_point.scaling import common_exponent, rescale


@dataclass(frozen=True)
class LayerGradient:
    """Gradients of the layer.

    Attributes:
        dx: Input gradient.
        exponent: Exponent of dx, one for all channels.
        dresidual: Gradient of the residual, in the exponent of g.
        dgamma: Σg·x̂ per channel, in steps of g.
        dbeta: Σg per channel, in steps of g.

    Shape:
        - dx, dresidual: ``(C, M)``
        - dgamma, dbeta: ``(C,)``
    """

    dx: IntArray
    exponent: int
    dresidual: IntArray
    dgamma: ScalarArray
    dbeta: ScalarArray


def activate(y: IntArray, residual: IntArray | None, relu: bool, spec: NormSpec) -> IntArray:
    """``relu(saturate(y + residual))`` in the format of y.

    Shape:
        - y, residual, Output: the same
    """
    if residual is not None:
        y = spec.output.saturate(y + residual)
    return np.maximum(y, 0) if relu else y


def norm_layer_forward(
    x: IntArray,
    gamma: IntArray,
    beta: IntArray,
    spec: NormSpec,
    residual: IntArray | None = None,
    relu: bool = True,
) -> Forward:
    """``l1_forward``, then the residual and the ReLU.

    Shape:
        - x, residual: ``(C, M)``
        - gamma, beta: ``(C,)``
    """
    out = l1_forward(x, gamma, beta, spec)
    return Forward(activate(out.y, residual, relu, spec), out.bits, out.channel)


def norm_layer_backward(
    g: IntArray,
    x: IntArray,
    forward: Forward,
    spec: NormSpec,
    g_exponent: int,
    x_exponent: IntArray,
    *,
    relu: bool = True,
    bits: int = 8,
    rounding: Rounding = "nearest",
    seed: int = 0,
    stream: int = 0,
    counter: npt.NDArray[np.uint64] | None = None,
) -> LayerGradient:
    """Exact gradient of ``norm_layer_forward``; saturation passes gradients, ReLU masks them.

    The products ``g · coefficient + offset`` of channel c have the exponent
    ``g_exponent − shift − fraction(y) − x_exponent``; ``common_exponent`` aligns them.

    Args:
        g: Output gradient, integers of ``spec.data``.
        x: The forward input.
        forward: What the forward pass returned.
        spec: The formats.
        g_exponent: Exponent of g.
        x_exponent: Exponent of each channel of x.
        relu: Whether the forward pass ended in a ReLU.
        bits: Bits of dx [bit].
        rounding: Rounding of dx, "nearest" or "stochastic".
        seed: Seed of the stochastic rounding.
        stream: Number of the tensor and step, see ``random_bits``.
        counter: Place of each element in memory; None counts in (C, M) order.

    Shape:
        - g, x, counter: ``(C, M)``
        - x_exponent: ``(C,)``
    """
    if relu:
        g = np.where(forward.y > 0, g, 0)
    g, x = check_pair(g, x, spec)
    channel = forward.channel
    dbeta, covariance = reduce_gradient(g, x, channel.statistics)
    slopes = l1_slopes(dbeta, covariance, channel, spec)
    wide = g * slopes.coefficient.astype(np.int64)[:, None] + select_offset(x, slopes, channel)
    exponents = g_exponent - channel.shift - spec.output.fraction - np.asarray(x_exponent, object)
    exponent, shift = common_exponent(np.abs(wide).max(axis=1), exponents, bits)
    dx = rescale(
        wide, shift[:, None], bits, rounding=rounding, seed=seed, stream=stream, counter=counter
    )
    return LayerGradient(dx, exponent, g, slopes.dgamma, dbeta)
