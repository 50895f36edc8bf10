"""L1BN and L2BN forward in integers: per element one multiplication, one addition, one shift.

The scalars of a channel are folded into a coefficient and an offset,

    y = saturate((x · coefficient + offset) >> shift),   coefficient ≈ γ/σ · 2**…,

so that neither the mean is subtracted nor x̂ formed per element. The offset carries β, the mean and
the half of the rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l1bn.fixed_point.formats import (
    IntArray,
    Rounding,
    ScalarArray,
    divide_nearest,
    rounding_noise,
)
from l1bn.fixed_point.norm.spec import FRACTION_BITS, INVERSE_K, POW2_BITS, POW2_POINT, NormSpec
from l1bn.fixed_point.norm.statistics import (
    L1Statistics,
    L2Statistics,
    check_data,
    l1_statistics,
    l2_statistics,
)


@dataclass(frozen=True)
class Reciprocal:
    """1/σ of each channel as ``mantissa · 2**-exponent``.

    The mantissa has ``spec.mantissa_bits`` bits; its last bit is a constant one: half a step of the
    bit before, which removes the bias of the truncating division without an adder. For a power of
    two it is ``2**(mantissa_bits-1)``.

    Shape:
        - mantissa, exponent: ``(C,)``
    """

    mantissa: ScalarArray
    exponent: ScalarArray


@dataclass(frozen=True)
class Channel:
    """What the forward pass leaves for the backward pass, one entry per channel.

    Attributes:
        statistics: Sums, threshold, deviation or root.
        coefficient: γ/σ as an integer of ``spec.coefficient``.
        shift: Shift of y; dx is shifted by ``shift + spec.dx_shift``.
        reciprocal: 1/σ.

    Shape:
        - coefficient, shift: ``(C,)``
    """

    statistics: L1Statistics | L2Statistics
    coefficient: ScalarArray
    shift: ScalarArray
    reciprocal: Reciprocal


@dataclass(frozen=True)
class Forward:
    """Result of a forward pass.

    Attributes:
        y: Output, integers of ``spec.output``.
        bits: One bit per element, 1 where x ≥ mean: all that the backward pass of L1BN needs of x
            element by element, beside the reduction Σg·x.
        channel: Per-channel scalars.

    Shape:
        - y: ``(C, M)``
        - bits: ``(C, M)``
    """

    y: IntArray
    bits: IntArray
    channel: Channel


def reciprocal(statistics: L1Statistics | L2Statistics, spec: NormSpec) -> Reciprocal:
    """1/σ by integer division, or as a power of two."""
    if isinstance(statistics, L2Statistics):
        numerator, divisor = statistics.count, statistics.root
    else:
        if spec.sigma == "pow2":
            return _pow2_reciprocal(statistics, spec)
        numerator = INVERSE_K * statistics.count**2
        divisor = statistics.deviation << FRACTION_BITS
    pairs = [_divide(numerator, d, spec.mantissa_bits - 1) for d in divisor.tolist()]
    mantissa = np.array([2 * m + 1 for m, _ in pairs], dtype=object)
    exponent = np.array([e + 1 for _, e in pairs], dtype=object)
    return Reciprocal(mantissa, exponent)


def _divide(numerator: int, divisor: int, bits: int) -> tuple[int, int]:
    """Leading ``bits`` bits m and exponent e of a quotient: m = ⌊2**e · numerator/divisor⌋."""
    exponent = bits - numerator.bit_length() + divisor.bit_length()
    quotient = _shifted_quotient(numerator, divisor, exponent)
    if quotient >= 1 << bits:
        exponent -= 1
    elif quotient < 1 << (bits - 1):
        exponent += 1
    return _shifted_quotient(numerator, divisor, exponent), exponent


def _shifted_quotient(numerator: int, divisor: int, exponent: int) -> int:
    return (numerator << max(exponent, 0)) // (divisor << max(-exponent, 0))


def _pow2_reciprocal(statistics: L1Statistics, spec: NormSpec) -> Reciprocal:
    """2**-e with e = log2 σ rounded: the smallest e with A·2**7 < 144·M²·2**e."""
    square = statistics.count**2 * POW2_POINT
    exponents = []
    for deviation in statistics.deviation.tolist():
        e = (deviation << POW2_BITS).bit_length() - square.bit_length() - 1
        while not _below(deviation << POW2_BITS, square, e):
            e += 1
        exponents.append(e)
    top = spec.mantissa_bits - 1
    mantissa = np.array([1 << top] * len(exponents), dtype=object)
    return Reciprocal(mantissa, np.array([e + top for e in exponents], dtype=object))


def _below(value: int, limit: int, log2: int) -> bool:
    return (value << max(-log2, 0)) < (limit << max(log2, 0))


def normalize(
    x: IntArray,
    statistics: L1Statistics | L2Statistics,
    gamma: IntArray,
    beta: IntArray,
    spec: NormSpec,
    *,
    rounding: Rounding = "nearest",
    seed: int = 0,
    stream: int = 0,
) -> tuple[IntArray, Channel]:
    """γ·(x − μ)/σ + β with given statistics.

    Shape:
        - x: ``(C, M)``
        - gamma, beta: ``(C,)``
        - Output: ``(C, M)``
    """
    channel, offset = fold(statistics, gamma, beta, spec)
    y = scale(
        x,
        channel.coefficient,
        offset,
        channel.shift,
        rounding=rounding,
        seed=seed,
        stream=stream,
    )
    return spec.output.saturate(y), channel


def fold(
    statistics: L1Statistics | L2Statistics, gamma: IntArray, beta: IntArray, spec: NormSpec
) -> tuple[Channel, ScalarArray]:
    """Fold mean, σ, γ and β of each channel into a coefficient, a shift and an offset.

    Returns:
        The channel's state, and the offset in steps of ``2**-shift`` of y.

    Shape:
        - gamma, beta, offset: ``(C,)``
    """
    gamma_s = spec.gamma.check("gamma", gamma).astype(object)
    beta_s = spec.output.check("beta", beta).astype(object)
    r = reciprocal(statistics, spec)
    shift = r.exponent + spec.shift_base
    coefficient = (gamma_s * r.mantissa + (1 << (spec.width - 1))) >> spec.width
    offset = divide_nearest(-coefficient * statistics.total, statistics.count) + (beta_s << shift)
    return Channel(statistics, coefficient, shift, r), offset


def scale(
    value: IntArray,
    coefficient: ScalarArray,
    offset: ScalarArray,
    shift: ScalarArray,
    *,
    rounding: Rounding = "nearest",
    seed: int = 0,
    stream: int = 0,
) -> IntArray:
    """(value · coefficient + offset) / 2**shift, rounded; the element path of both directions.

    Shape:
        - value: ``(C, M)``
        - coefficient, shift: ``(C,)``
        - offset: ``(C,)`` or ``(C, M)``
    """
    c, s = (a.astype(np.int64)[:, None] for a in (coefficient, shift))
    o = offset.astype(np.int64)
    o = o[:, None] if o.ndim == 1 else o
    if rounding == "stochastic":
        added = rounding_noise(s, value.shape, seed, stream)
    elif rounding == "nearest":
        added = np.int64(1) << (s - 1)
    else:
        raise ValueError(f"expected rounding 'nearest' or 'stochastic', got {rounding!r}")
    return (value * c + o + added) >> s


def l1_forward(
    x: IntArray,
    gamma: IntArray,
    beta: IntArray,
    spec: NormSpec,
    guess: IntArray | None = None,
    *,
    rounding: Rounding = "nearest",
    seed: int = 0,
    stream: int = 0,
) -> Forward:
    """L1BN forward (Wu et al., arXiv:1802.09769) in integers.

    Args:
        x: Input, integers of ``spec.data``.
        gamma: Scale, integers of ``spec.gamma``.
        beta: Shift, integers of ``spec.output``.
        spec: The formats.
        guess: Thresholds of the previous batch for one-pass statistics, or None.
        rounding: "nearest" or "stochastic".
        seed: Seed of the stochastic rounding.
        stream: Number of the tensor and step, see ``random_bits``.

    Shape:
        - x: ``(C, M)``, one row per channel
        - gamma, beta, guess: ``(C,)``

    Raises:
        TypeError: If an argument holds no integers.
        ValueError: If a shape is wrong or a value does not fit its format.
    """
    statistics = l1_statistics(x, spec, guess)
    x = check_data("x", x, spec)
    y, channel = normalize(
        x, statistics, gamma, beta, spec, rounding=rounding, seed=seed, stream=stream
    )
    bits = (x >= statistics.threshold[:, None]).astype(np.int64)
    return Forward(y, bits, channel)


def l2_forward(
    x: IntArray,
    gamma: IntArray,
    beta: IntArray,
    spec: NormSpec,
    *,
    rounding: Rounding = "nearest",
    seed: int = 0,
    stream: int = 0,
) -> Forward:
    """L2BN forward in integers, with the same formats and the integer root: the baseline.

    Arguments and errors are those of ``l1_forward``; ``bits`` is the sign of x − μ, too.

    Shape:
        - x: ``(C, M)``, one row per channel
        - gamma, beta: ``(C,)``
    """
    statistics = l2_statistics(x, spec)
    x = check_data("x", x, spec)
    y, channel = normalize(
        x, statistics, gamma, beta, spec, rounding=rounding, seed=seed, stream=stream
    )
    threshold = -((-statistics.total) // statistics.count)
    return Forward(y, (x >= threshold.astype(np.int64)[:, None]).astype(np.int64), channel)
