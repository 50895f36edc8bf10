"""SGD with momentum and weight decay on 16-bit master weights.

    d  = g + decay·w             v = momentum·v + d
    w −= rate · (d + momentum·v)   (Nesterov), or rate · v

g has 8 bits (γ and β: the exact 32-bit sums), w and v 16 bits; intermediate values are 64-bit
integers with ``UNIT_BITS`` fraction bits. What w and v cannot hold is rounded stochastically, so
that steps below the last bit count in the mean. The semantics are those of ``torch.optim.SGD``.
Weights that outgrow their 16 bits take a coarser exponent after the step, see ``make_room``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from l1bn.fixed_point.formats import IntArray, Rounding, random_bits
from l1bn.fixed_point.scaling import memory_order, peak_shift

UNIT_BITS = 32
"""Fraction bits of gradients and momentum while they are added."""
RATE_BITS = 16
"""Fraction bits of the learning rate, the momentum and the weight decay."""
LIMIT_BITS = 40
"""Gradients and momentum saturate at 2**40 units, the number 256."""

SUM_BITS = 62
"""Bits of the magnitude of a sum of gradients."""


@dataclass(frozen=True)
class SgdStep:
    """Scalars of one step, as integers with ``RATE_BITS`` fraction bits.

    Attributes:
        rate: Learning rate.
        momentum: Momentum.
        decay: Weight decay, with twice as many fraction bits.
        nesterov: Nesterov's form of the momentum.
    """

    rate: int
    momentum: int
    decay: int
    nesterov: bool = True

    @classmethod
    def quantize(
        cls, rate: float, momentum: float = 0.9, decay: float = 0.0, nesterov: bool = True
    ) -> SgdStep:
        """Round the numbers of a float recipe.

        Raises:
            ValueError: If a number is negative, the momentum is not below 1, or the rate above 64.
        """
        one = 1 << RATE_BITS
        if not (0 <= rate <= 64 and 0 <= momentum < 1 and 0 <= decay < 1):
            raise ValueError(
                "expected a rate in [0, 64], a momentum in [0, 1) and a decay in [0, 1), got "
                f"{rate}, {momentum} and {decay}"
            )
        scaled = (round(rate * one), round(momentum * one), round(decay * one * one))
        return cls(*scaled, nesterov=nesterov)


@dataclass(frozen=True)
class Master:
    """A parameter: 16-bit weights and 16-bit momentum, each with its exponent.

    Attributes:
        weight: Master weights.
        exponent: Their exponent.
        momentum: Momentum.
        momentum_exponent: Its exponent.
        bits: Bits of both [bit].

    Shape:
        - weight, momentum: the parameter's
    """

    weight: IntArray
    exponent: int
    momentum: IntArray
    momentum_exponent: int
    bits: int = 16


def sgd_step(
    master: Master,
    gradient: IntArray,
    exponent: int,
    step: SgdStep,
    *,
    rounding: Rounding = "stochastic",
    seed: int = 0,
    stream: int = 0,
) -> Master:
    """Take one step.

    Args:
        master: The parameter.
        gradient: Its gradient, integers.
        exponent: Exponent of the gradient.
        step: Learning rate, momentum and decay.
        rounding: Rounding of weights and momentum, "stochastic" or "nearest".
        seed: Seed of the run.
        stream: Number of this parameter and step; the momentum takes ``stream + 1``.

    Shape:
        - gradient: that of the weights
    """
    d = to_units(gradient.astype(np.int64), exponent)
    d = d + to_units(master.weight * step.decay, master.exponent - 2 * RATE_BITS)
    v = to_units(master.momentum, master.momentum_exponent)
    v = _limit(((v * step.momentum + (1 << (RATE_BITS - 1))) >> RATE_BITS) + d)
    move = v
    if step.nesterov:
        move = _limit(((v * step.momentum + (1 << (RATE_BITS - 1))) >> RATE_BITS) + d)
    high = (1 << (master.bits - 1)) - 1
    shift = UNIT_BITS + RATE_BITS + master.exponent
    delta = _shift(move * step.rate, shift, rounding, seed, stream)
    weight = np.clip(master.weight - delta, -high, high)
    shift = peak_shift(int(np.abs(v).max(initial=0)), master.bits)
    momentum = np.clip(_shift(v, shift, rounding, seed, stream + 1), -high, high)
    return Master(weight, master.exponent, momentum, shift - UNIT_BITS, master.bits)


def accumulate(
    total: IntArray, total_exponent: int, gradient: IntArray, exponent: int
) -> tuple[IntArray, int]:
    """Add the gradient of one more batch to a sum of gradients, as backward calls do before a step.

    The sum is exact as long as it fits ``SUM_BITS`` bits in steps of the finer exponent; else both
    are rounded to nearest, ties up, in the finest steps at which it fits, see ``sum_exponent``.

    Args:
        total: The sum so far.
        total_exponent: Its exponent.
        gradient: What is added.
        exponent: Its exponent.

    Returns:
        The sum and its exponent.

    Shape:
        - total, gradient, Output: the same
    """
    peaks = [int(np.abs(a).max(initial=0)) for a in (total, gradient)]
    out = sum_exponent(peaks[0], total_exponent, peaks[1], exponent)
    return _in_steps(total, total_exponent - out) + _in_steps(gradient, exponent - out), out


def sum_exponent(a_peak: int, a_exponent: int, b_peak: int, b_exponent: int) -> int:
    """Return the finest exponent of a sum: that of the finer term, or what ``SUM_BITS`` bits hold.

    Zeros have no exponent that the sum should respect.

    Args:
        a_peak: Largest magnitude of a term.
        a_exponent: Its exponent.
        b_peak: Largest magnitude of the other term.
        b_exponent: Its exponent.
    """
    terms = [(p, e) for p, e in ((a_peak, a_exponent), (b_peak, b_exponent)) if p > 0]
    if not terms:
        return min(a_exponent, b_exponent)
    # each term stays below half of the range, so that the sum fits
    needed = (e + p.bit_length() - (SUM_BITS - 1) for p, e in terms)
    return max(min(e for _, e in terms), *needed)


def _in_steps(value: IntArray, shift: int) -> IntArray:
    """``value · 2**shift`` to nearest; zeros stay zeros at any shift."""
    wide = value.astype(np.int64)
    if shift >= 0:
        return wide << min(shift, SUM_BITS)
    down = min(-shift, SUM_BITS)
    return (wide + (1 << (down - 1))) >> down


def make_room(master: Master) -> Master:
    """Double the range of weights of which one uses more than three quarters of it.

    To nearest: it happens a few times in a training, so that no bias adds up.
    """
    high = (1 << (master.bits - 1)) - 1
    if 4 * int(np.abs(master.weight).max(initial=0)) <= 3 * high:
        return master
    return replace(master, weight=(master.weight + 1) >> 1, exponent=master.exponent + 1)


def _limit(value: IntArray) -> IntArray:
    return np.clip(value, -(1 << LIMIT_BITS), 1 << LIMIT_BITS)


def to_units(value: IntArray, exponent: int) -> IntArray:
    """``value · 2**exponent`` in units, to nearest and saturated."""
    shift = exponent + UNIT_BITS
    if shift < 0:
        down = min(-shift, 62)
        return _limit((value + (1 << (down - 1))) >> down)
    bound = (1 << LIMIT_BITS) >> min(shift, LIMIT_BITS)
    return np.clip(value, -bound, bound) << min(shift, LIMIT_BITS)


def _shift(value: IntArray, shift: int, rounding: Rounding, seed: int, stream: int) -> IntArray:
    """``value / 2**shift``, rounded to nearest or stochastically with 32 random bits."""
    if shift == 0:
        return value
    if rounding == "nearest":
        return (value + (1 << (shift - 1))) >> shift
    noise = random_bits(seed, stream, memory_order(value.shape)).astype(np.int64)
    noise = noise << (shift - 32) if shift > 32 else noise >> (32 - shift)
    return (value + noise) >> shift
