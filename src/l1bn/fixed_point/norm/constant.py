"""L1BN by running statistics in training too, as a layer of 8 bits: any batch, down to one value.

Statistics that do not depend on the batch are constants, so the gradient is that of a scale,

    dx = g · γ/σ,    dγ = Σ g·(x − μ)/σ,    dβ = Σ g,

and is exact. They move after the forward pass that used them. The deviation is taken around the
running mean: around its own, one image shows no difference between images, and one value none at
all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from l1bn.fixed_point.formats import (
    IntArray,
    Rounding,
    ScalarArray,
    divide_nearest,
    integer_root,
)
from l1bn.fixed_point.norm.backward import constant_dgamma, reduce_gradient
from l1bn.fixed_point.norm.layer import LayerGradient, activate
from l1bn.fixed_point.norm.normalize import Forward, normalize
from l1bn.fixed_point.norm.running import (
    MOMENTUM_BITS,
    RUNNING_BITS,
    Running,
    evaluation_statistics,
    part_way,
)
from l1bn.fixed_point.norm.spec import FRACTION_BITS, K, NormSpec
from l1bn.fixed_point.norm.statistics import (
    L1Statistics,
    channel_sum,
    check_data,
    mean_threshold,
)
from l1bn.fixed_point.scaling import common_exponent, rescale

_BEYOND = 128  # no 8-bit number is at or above it
_WIDE = 1 << 30  # σ² of 128 steps
_NARROW = 1 << 26  # σ² of 32 steps
_NEAR = 1 << 21  # a mean of 32 steps


@dataclass(frozen=True)
class Sides:
    """Sums of the elements of a channel, and of those at or above a threshold.

    Attributes:
        count: Elements per channel, M.
        total: Σx.
        above: n, elements at or above the threshold.
        high: Their sum.

    Shape:
        - all but count: ``(C,)``
    """

    count: int
    total: ScalarArray
    above: ScalarArray
    high: ScalarArray


def sides(x: IntArray, threshold: IntArray) -> Sides:
    """Sum both sides of a threshold.

    Shape:
        - x: ``(C, M)``
        - threshold: ``(C,)``
    """
    above = x >= threshold[:, None]
    high = channel_sum(np.where(above, x, 0))
    return Sides(x.shape[1], channel_sum(x), channel_sum(above.astype(np.int64)), high)


def threshold_of(running: Running) -> IntArray:
    """Smallest 8-bit number at or above the running mean, or 128.

    Shape:
        - Output: ``(C,)``
    """
    found = mean_threshold(running.mean.astype(object), 1 << RUNNING_BITS)
    return np.clip(found, -_BEYOND, _BEYOND)


def batch_mean(batch: Sides) -> IntArray:
    """The mean of a batch, in the steps of ``Running.mean``.

    Shape:
        - Output: ``(C,)``
    """
    return divide_nearest(batch.total << RUNNING_BITS, batch.count).astype(np.int64)


def share(momentum: int, batches: int) -> int:
    """Return the share of the next batch, of 2048.

    The first batches count as in a plain average, so that the start is soon forgotten.

    Args:
        momentum: Share of a batch later on, of 2048.
        batches: Batches seen so far.
    """
    return max(momentum, -(-(1 << MOMENTUM_BITS) // (batches + 1)))


def toward(running: Running, batch: Sides, momentum: int) -> Running:
    """Move by ``momentum / 2**11`` toward a batch: μ to its mean, σ to k·mean|x − μ|.

    σ moves, and not its square: of few values, the mean of the square is too large.

    Args:
        running: Averages in the steps of x.
        batch: What ``sides`` gives for ``threshold_of(running)``.
        momentum: Share of the batch, of 2048.

    Returns:
        Averages that may leave 32 bits: see ``settle``.
    """
    mean = running.mean.astype(object)
    below = batch.count - batch.above
    deviation = ((2 * batch.high - batch.total) << RUNNING_BITS) - (batch.above - below) * mean
    sigma = divide_nearest(K * deviation, batch.count << FRACTION_BITS)
    before = _root_nearest(running.variance.astype(object) << RUNNING_BITS)
    after = part_way(before, sigma, momentum)
    variance = (after * after + (1 << (RUNNING_BITS - 1))) >> RUNNING_BITS
    return Running(part_way(mean, batch_mean(batch), momentum), variance)


def _root_nearest(value: ScalarArray) -> ScalarArray:
    return (integer_root(4 * value) + 1) >> 1


def settle(running: Running, exponent: IntArray, seen: IntArray) -> tuple[Running, IntArray]:
    """Return averages and exponents of the steps in which they are kept, within 32 bits.

    Steps grow where σ passes 128 of them. They shrink to a half where a batch stays two powers of
    two below and mean and σ stay below 32.

    Args:
        running: What ``toward`` gives.
        exponent: Exponent of its steps.
        seen: Exponents that the batch alone needs.

    Shape:
        - exponent, seen: ``(C,)``
    """
    wide = running.variance > _WIDE
    small = (running.variance < _NARROW) & (abs(running.mean) < _NEAR)
    change = np.where(wide, 1, np.where(small & (seen <= exponent - 2), -1, 0)).astype(np.int64)
    return running.rescaled(change), exponent + change


def constant_layer_forward(
    x: IntArray,
    running: Running,
    gamma: IntArray,
    beta: IntArray,
    spec: NormSpec,
    residual: IntArray | None = None,
    relu: bool = True,
) -> Forward:
    """``evaluate``, then the residual and the ReLU.

    Args:
        x: Input, integers of ``spec.data``.
        running: Statistics, in steps of x.
        gamma: Scale, integers of ``spec.gamma``.
        beta: Shift, integers of ``spec.output``.
        spec: The formats.
        residual: Integers of ``spec.output``.
        relu: Whether to end in a ReLU.

    Shape:
        - x, residual: ``(C, M)``
        - gamma, beta: ``(C,)``
    """
    x = check_data("x", x, spec, least=1)
    y, channel = normalize(x, evaluation_statistics(running, spec), gamma, beta, spec)
    bits = (x >= threshold_of(running)[:, None]).astype(np.int64)
    return Forward(activate(y, residual, relu, spec), bits, channel)


def constant_layer_backward(
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
    """Exact gradient of ``constant_layer_forward``.

    Arguments and result are those of ``norm_layer_backward``.

    Shape:
        - g, x, counter: ``(C, M)``
        - x_exponent: ``(C,)``

    Raises:
        TypeError: If ``forward`` has statistics of L2BN.
    """
    if relu:
        g = np.where(forward.y > 0, g, 0)
    g, x = (check_data(name, a, spec, least=1) for name, a in (("g", g), ("x", x)))
    channel, statistics = forward.channel, forward.channel.statistics
    if not isinstance(statistics, L1Statistics):
        raise TypeError("forward: expected that of constant_layer_forward, got one of L2BN")
    dbeta, covariance = reduce_gradient(g, x, statistics)
    dgamma = constant_dgamma(covariance, statistics.count, statistics.deviation)
    wide = g * channel.coefficient.astype(np.int64)[:, None]
    exponents = g_exponent - channel.shift - spec.output.fraction - np.asarray(x_exponent, object)
    exponent, shift = common_exponent(np.abs(wide).max(axis=1), exponents, bits)
    dx = rescale(
        wide, shift[:, None], bits, rounding=rounding, seed=seed, stream=stream, counter=counter
    )
    return LayerGradient(dx, exponent, g, dgamma, dbeta)
