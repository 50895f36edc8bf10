"""L1BN and L2BN backward in integers.

L1BN needs per element only g and one bit b = [x ≥ μ]:

    dx = saturate((g · coefficient + offset_b) >> shift)

with two offsets per channel. q = k·dγ/M = Σg·(x−μ) / Σ|x−μ| has no √(π/2) and never exceeds
max|g|. L2BN needs x in place of the bit, and a second multiplication per element:

    dx = saturate((g · coefficient − x · slope + offset) >> shift).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l1bn.fixed_point.formats import (
    Format,
    IntArray,
    Rounding,
    ScalarArray,
    divide_nearest,
    divide_truncated,
)
from l1bn.fixed_point.norm.normalize import Channel, scale
from l1bn.fixed_point.norm.spec import FRACTION_BITS, INVERSE_K, K, NormSpec
from l1bn.fixed_point.norm.statistics import (
    L1Statistics,
    L2Statistics,
    channel_sum,
    check_data,
    mean_threshold,
)


@dataclass(frozen=True)
class Backward:
    """Result of a backward pass.

    Attributes:
        dx: Input gradient, integers of ``spec.gradient`` in steps of g over steps of x.
        dgamma: Σg·x̂ per channel, in steps of g.
        dbeta: Σg per channel, in steps of g.

    Shape:
        - dx: ``(C, M)``
        - dgamma, dbeta: ``(C,)``
    """

    dx: IntArray
    dgamma: IntArray
    dbeta: IntArray


def reduce_gradient(
    g: IntArray, x: IntArray, statistics: L1Statistics | L2Statistics
) -> tuple[ScalarArray, ScalarArray]:
    """Σg and Σg·(M·x − S).

    Shape:
        - g, x: ``(C, M)``
        - Output: ``(C,)``, ``(C,)``
    """
    total = channel_sum(g)
    return total, statistics.count * channel_sum(g * x) - statistics.total * total


@dataclass(frozen=True)
class Slopes:
    """The input gradient of L1BN before its last shift: ``g · coefficient + (high if b else low)``.

    Attributes:
        coefficient: γ/σ, see ``Channel``.
        low: Offset of the elements below the mean.
        high: Offset of the elements at or above it.
        dgamma: Σg·x̂, in steps of g.

    Shape:
        - coefficient, low, high, dgamma: ``(C,)``
    """

    coefficient: ScalarArray
    low: ScalarArray
    high: ScalarArray
    dgamma: ScalarArray


def l1_slopes(
    dbeta: ScalarArray, covariance: ScalarArray, channel: Channel, spec: NormSpec
) -> Slopes:
    """Per-channel scalars of the exact gradient of L1BN, mean(sgn) term included.

    Args:
        dbeta: G = Σg.
        covariance: D = M·Σg·x − S·G.
        channel: ``Forward.channel``.
        spec: The formats.

    Shape:
        - dbeta, covariance: ``(C,)``

    Raises:
        TypeError: If ``channel`` comes from ``l2_forward``.
    """
    statistics = channel.statistics
    if not isinstance(statistics, L1Statistics):
        raise TypeError("channel: expected the state of l1_forward, got that of l2_forward")
    count = statistics.count
    if spec.sigma == "pow2":
        exponent = channel.reciprocal.exponent - (spec.mantissa_bits - 1)
        dgamma = _floor_shift(covariance, exponent, count)
        q = (dgamma * K) >> FRACTION_BITS
    else:
        q = divide_truncated(covariance * count, statistics.deviation)
        dgamma = _dgamma_of(q)
    q = np.where(statistics.live, q, 0)
    below = (2 * dbeta * count + count - 4 * q * statistics.above) // (2 * count)
    low, high = (divide_nearest(-channel.coefficient * c, count) for c in (below, below + 2 * q))
    return Slopes(channel.coefficient, low, high, dgamma)


def l1_backward(
    g: IntArray,
    x: IntArray,
    channel: Channel,
    spec: NormSpec,
    *,
    rounding: Rounding = "nearest",
    seed: int = 0,
    stream: int = 0,
) -> Backward:
    """Exact gradient of L1BN in integers, in the format ``spec.gradient``.

    Args:
        g: Output gradient, integers of ``spec.data``.
        x: The forward input; it enters the reduction Σg·x and the bit x ≥ μ only.
        channel: ``Forward.channel``.
        spec: The formats.
        rounding: Rounding of dx, "nearest" or "stochastic".
        seed: Seed of the stochastic rounding.
        stream: Number of the tensor and step, see ``random_bits``.

    Shape:
        - g, x: ``(C, M)``

    Raises:
        TypeError: If ``channel`` comes from ``l2_forward``, or an argument holds no integers.
        ValueError: If a shape is wrong or a value does not fit its format.
    """
    g, x = check_pair(g, x, spec)
    dbeta, covariance = reduce_gradient(g, x, channel.statistics)
    slopes = l1_slopes(dbeta, covariance, channel, spec)
    shift = channel.shift + spec.dx_shift
    offset = select_offset(x, slopes, channel)
    dx = scale(g, slopes.coefficient, offset, shift, rounding=rounding, seed=seed, stream=stream)
    return _backward(dx, slopes.dgamma, dbeta, spec)


def select_offset(x: IntArray, slopes: Slopes, channel: Channel) -> IntArray:
    """The offset of each element, by its bit x ≥ μ.

    Shape:
        - x: ``(C, M)``
        - Output: ``(C, M)``
    """
    statistics = channel.statistics
    threshold = mean_threshold(statistics.total, statistics.count)
    low, high = (a.astype(np.int64)[:, None] for a in (slopes.low, slopes.high))
    return np.where(x >= threshold[:, None], high, low)


def _floor_shift(covariance: ScalarArray, exponent: ScalarArray, count: int) -> ScalarArray:
    """⌊covariance / (count · 2**exponent)⌋."""
    up, down = np.maximum(-exponent, 0), np.maximum(exponent, 0)
    return (covariance << up) // (count << down)


def constant_dgamma(covariance: ScalarArray, count: int, deviation: ScalarArray) -> ScalarArray:
    """Σg·x̂ with statistics that are constants, in steps of g.

    Args:
        covariance: M·Σg·x − S·Σg, with M and S of those statistics.
        count: M.
        deviation: Σ|M·x − S|.

    Shape:
        - covariance, deviation, Output: ``(C,)``
    """
    return _dgamma_of(divide_truncated(covariance * count, deviation))


def _dgamma_of(q: ScalarArray) -> ScalarArray:
    return (q * INVERSE_K + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS


@dataclass(frozen=True)
class L2Slopes:
    """The input gradient of L2BN before its last shift: ``g · coefficient − x · slope + offset``.

    Attributes:
        coefficient: γ/σ, see ``Channel``.
        slope: Factor of x.
        offset: What all elements of a channel share.
        dgamma: Σg·x̂, in steps of g.
    """

    coefficient: ScalarArray
    slope: ScalarArray
    offset: ScalarArray
    dgamma: ScalarArray


def l2_slopes(
    dbeta: ScalarArray, covariance: ScalarArray, channel: Channel, spec: NormSpec
) -> L2Slopes:
    """Per-channel scalars of the gradient of L2BN; arguments are those of ``l1_slopes``.

    Raises:
        TypeError: ``channel`` comes from ``l1_forward``.
    """
    statistics = channel.statistics
    if not isinstance(statistics, L2Statistics):
        raise TypeError("channel: expected the state of l2_forward, got that of l1_forward")
    dgamma = divide_truncated(covariance, statistics.root)
    slope = divide_truncated(channel.coefficient * dgamma, statistics.root)
    limit = spec.coefficient.high
    slope = np.where(statistics.live, np.clip(slope, -limit, limit), 0)
    mean = slope * statistics.total - channel.coefficient * dbeta
    offset = divide_nearest(mean, statistics.count)
    return L2Slopes(channel.coefficient, slope, offset, dgamma)


def l2_backward(
    g: IntArray,
    x: IntArray,
    channel: Channel,
    spec: NormSpec,
    *,
    rounding: Rounding = "nearest",
    seed: int = 0,
    stream: int = 0,
) -> Backward:
    """Gradient of L2BN in integers: the baseline.

    The slope coefficient·dγ/(M·σ) shares the coefficient's exponent and saturates where
    ``|dγ|/M`` exceeds a few σ; L1BN has no such case. Arguments and errors are those of
    ``l1_backward``.

    Shape:
        - g, x: ``(C, M)``
    """
    g, x = check_pair(g, x, spec)
    dbeta, covariance = reduce_gradient(g, x, channel.statistics)
    slopes = l2_slopes(dbeta, covariance, channel, spec)
    offset, slope = (a.astype(np.int64)[:, None] for a in (slopes.offset, slopes.slope))
    shift = channel.shift + spec.dx_shift
    dx = scale(
        g,
        slopes.coefficient,
        offset - x * slope,
        shift,
        rounding=rounding,
        seed=seed,
        stream=stream,
    )
    return _backward(dx, slopes.dgamma, dbeta, spec)


def check_pair(g: IntArray, x: IntArray, spec: NormSpec) -> tuple[IntArray, IntArray]:
    """Return both as (C, M) int64 after checking shapes and ranges.

    Raises:
        ValueError: A shape or a value is not what ``spec`` asks for.
    """
    g, x = check_data("g", g, spec), check_data("x", x, spec)
    if g.shape != x.shape:
        raise ValueError(f"g: expected the shape of x, {x.shape}, got {g.shape}")
    return g, x


def _backward(dx: IntArray, dgamma: ScalarArray, dbeta: ScalarArray, spec: NormSpec) -> Backward:
    wide = Format(32)
    return Backward(
        Format(spec.width).saturate(dx),
        wide.saturate(dgamma.astype(np.int64)),
        dbeta.astype(np.int64),
    )
