"""Channel statistics in integers, without a rounding before the reciprocal.

With S = Σx over M elements, every deviation from the mean is ``(M·x − S)/M``: the integer
``M·x − S`` is exact, so the mean needs no guard bits. L1BN's deviation follows from two sums and a
count, without a subtraction or an absolute value per element:

    Σ|M·x − S| = 2·(M·P − n·S),   P = Σ x over x ≥ mean,   n = their number.

With the threshold of an earlier batch instead of the mean, the right-hand side is the first-order
expansion around that threshold: one pass over x. It is a lower bound (Σ over a subset of signed
deviations), tight while the threshold is near; ``needs_second_pass`` is the guard.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l1bn.fixed_point.formats import IntArray, ScalarArray, integer_root
from l1bn.fixed_point.norm.spec import NormSpec


@dataclass(frozen=True)
class L1Statistics:
    """Statistics of L1BN, one entry per channel.

    Attributes:
        count: Elements per channel, M.
        total: S = Σx.
        threshold: Smallest integer at or above the mean: ``x >= threshold`` is sgn(x − μ).
        above: n, elements at or above the mean.
        deviation: Σ|M·x − S|, not below the floor.
        live: False where the floor holds, so that σ is a constant.
        second_pass: Where the one-pass estimate was refused and a second pass ran.

    Shape:
        - all but count: ``(C,)``
    """

    count: int
    total: ScalarArray
    threshold: IntArray
    above: ScalarArray
    deviation: ScalarArray
    live: ScalarArray
    second_pass: ScalarArray


@dataclass(frozen=True)
class L2Statistics:
    """Statistics of L2BN, one entry per channel.

    Attributes:
        count: Elements per channel, M.
        total: S = Σx.
        root: ⌊√(M·Σx² − S²)⌋ = M·σ, not below the floor.
        live: False where the floor holds.

    Shape:
        - total, root, live: ``(C,)``
    """

    count: int
    total: ScalarArray
    root: ScalarArray
    live: ScalarArray


def channel_sum(values: IntArray) -> ScalarArray:
    """Sum over the elements of each channel, as Python integers.

    Shape:
        - values: ``(C, M)``
        - Output: ``(C,)``
    """
    return values.sum(axis=1, dtype=np.int64).astype(object)


def mean_threshold(total: ScalarArray, count: int) -> IntArray:
    """Smallest integer at or above ``total / count``."""
    return (-((-total) // count)).astype(np.int64)


def split_deviation(
    x: IntArray, total: ScalarArray, threshold: IntArray
) -> tuple[ScalarArray, ScalarArray]:
    """Deviation 2·(M·P − n·S) and count n of the elements at or above a threshold.

    Shape:
        - x: ``(C, M)``
        - total, threshold: ``(C,)``
        - Output: ``(C,)``, ``(C,)``
    """
    above = x >= threshold[:, None]
    n = channel_sum(above.astype(np.int64))
    high = channel_sum(np.where(above, x, 0))
    return 2 * (x.shape[1] * high - n * total), n


def needs_second_pass(
    estimate: ScalarArray, guess: IntArray, threshold: IntArray, count: int
) -> ScalarArray:
    """Guard of the one-pass deviation: the guess is off by more than a quarter deviation.

    Within the guard the estimate is at least 2/3 of the true deviation: the proof is in
    docs/integers/fixed_point.md.
    """
    distance = abs(guess.astype(object) - threshold.astype(object))
    return 4 * distance * count * count > estimate


def l1_statistics(x: IntArray, spec: NormSpec, guess: IntArray | None = None) -> L1Statistics:
    """Mean and mean absolute deviation of each channel.

    Args:
        x: Integers of ``spec.data``.
        spec: The formats.
        guess: Thresholds of the previous batch for one-pass statistics; None takes two passes.

    Shape:
        - x: ``(C, M)``
        - guess: ``(C,)``

    Raises:
        TypeError: If ``x`` holds no integers.
        ValueError: If ``x`` is not two-dimensional, or a value does not fit the format.
    """
    x = check_data("x", x, spec)
    count = x.shape[1]
    total = channel_sum(x)
    threshold = mean_threshold(total, count)
    deviation, above = split_deviation(x, total, threshold)
    second_pass = np.zeros(len(x), dtype=object) == 1
    if guess is not None:
        guess = spec.data.check("guess", guess)
        estimate, _ = split_deviation(x, total, guess)
        second_pass = needs_second_pass(estimate, guess, threshold, count)
        deviation = np.where(second_pass, deviation, estimate)
    floor = spec.deviation_floor(count)
    live = deviation > floor
    deviation = np.where(live, deviation, floor)
    return L1Statistics(
        count=count,
        total=total,
        threshold=threshold,
        above=above,
        deviation=deviation,
        live=live,
        second_pass=second_pass,
    )


def l2_statistics(x: IntArray, spec: NormSpec) -> L2Statistics:
    """Mean and standard deviation of each channel.

    One pass over x (Σx and Σx²) and two passes (Σx, then Σ(x − ⌊μ⌋)²) give the same integers.

    Shape:
        - x: ``(C, M)``

    Raises:
        TypeError: If ``x`` holds no integers.
        ValueError: If ``x`` is not two-dimensional, or a value does not fit the format.
    """
    x = check_data("x", x, spec)
    count = x.shape[1]
    total = channel_sum(x)
    variance = count * channel_sum(x * x) - total * total
    floor = spec.root_floor(count)
    live = variance > floor * floor
    root = integer_root(np.where(live, variance, floor * floor))
    return L2Statistics(count, total, root, live)


def check_data(name: str, value: IntArray, spec: NormSpec, least: int = 2) -> IntArray:
    """Return ``value`` as (C, M) int64 after checking shape and range.

    Args:
        name: What errors call it.
        value: Integers of ``spec.data``.
        spec: The formats.
        least: How many elements a channel must have; statistics need two.

    Raises:
        ValueError: A shape or a value is not what ``spec`` asks for.
    """
    value = np.asarray(value)
    if value.ndim != 2 or value.shape[1] < least:
        raise ValueError(
            f"{name}: expected shape (C, M) with M >= {least} elements per channel, got "
            f"{value.shape}; move the channel axis to the front and flatten the rest"
        )
    return spec.data.check(name, value)
