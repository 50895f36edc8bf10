"""Gradients of losses in integers: cross-entropy by a table of powers of two, squared error."""

from __future__ import annotations

import numpy as np

from l1bn.fixed_point.addition import MAX_GAP
from l1bn.fixed_point.formats import IntArray
from l1bn.fixed_point.scaling import peak_shift

LOG2_E_BITS = 14
LOG2_E = 23637
"""log2(e) · 2**14."""
TABLE_BITS = 10
PROBABILITY_BITS = 14
MEAN_BITS = 16
"""Fraction bits of 1/N."""
ONE_BITS = 15
"""Fraction bits of the powers of two."""
MAX_SHIFT = 62

TABLE: IntArray = np.floor(
    2.0 ** (ONE_BITS - np.arange(1 << TABLE_BITS) / (1 << TABLE_BITS)) + 0.5
).astype(np.int64)
"""2**(15 − i/1024)."""


def softmax(logits: IntArray, exponent: int) -> IntArray:
    """Soft-max of ``logits · 2**exponent`` with ``PROBABILITY_BITS`` fraction bits.

    Shape:
        - logits, Output: ``(N, classes)``
    """
    wide = logits.astype(np.int64)
    below = (wide.max(axis=1, keepdims=True) - wide) * LOG2_E
    shift = LOG2_E_BITS - TABLE_BITS - exponent
    below = below >> min(shift, MAX_SHIFT) if shift >= 0 else _shift_left(below, -shift)
    power = TABLE[below & ((1 << TABLE_BITS) - 1)] >> np.minimum(below >> TABLE_BITS, MAX_SHIFT)
    total = power.sum(axis=1, keepdims=True)
    return ((power << PROBABILITY_BITS) + total // 2) // total


def _shift_left(value: IntArray, shift: int) -> IntArray:
    up = min(shift, MAX_SHIFT)  # what goes beyond it is a probability of 0 anyway
    return np.minimum(value, (1 << MAX_SHIFT) >> up) << up


def inverse_count(count: int) -> int:
    """1/count with 16 fraction bits."""
    return ((2 << MEAN_BITS) + count) // (2 * count)


def softmax_error(
    logits: IntArray, exponent: int, labels: IntArray, smoothing: int = 0
) -> tuple[IntArray, int]:
    """Gradient of the mean cross-entropy in the logits, in 32 bits.

    Args:
        logits: Integers.
        exponent: Their exponent.
        labels: Class of each row.
        smoothing: Share of each label spread over all classes, with ``PROBABILITY_BITS`` bits.

    Returns:
        The gradient and its exponent.

    Shape:
        - logits, Output: ``(N, classes)``
        - labels: ``(N,)``
    """
    count, classes = logits.shape
    target = np.full(logits.shape, smoothing // classes, dtype=np.int64)
    target[np.arange(count), labels] += (1 << PROBABILITY_BITS) - smoothing
    error = (softmax(logits, exponent) - target) * inverse_count(count)
    return error, -PROBABILITY_BITS - MEAN_BITS


DIFFERENCE_BITS = 16
"""Bits of a difference from its target before it is divided by their number."""
INVERSE_BITS = 14
"""Bits of the reciprocal of that number."""


def squared_error(
    output: IntArray, exponent: int, target: IntArray, target_exponent: int
) -> tuple[IntArray, int]:
    """Gradient of the mean squared error in the output, in 32 bits.

    Both go into the finer of their steps; the difference becomes 16 bits, to nearest, and is
    multiplied by 2/count.

    Returns:
        The gradient and its exponent.

    Shape:
        - output, target, Output: the same
    """
    low, high = sorted((exponent, target_exponent))
    out = max(low, high - MAX_GAP)
    difference = _in_steps(output, exponent - out) - _in_steps(target, target_exponent - out)
    shift = peak_shift(int(np.abs(difference).max(initial=0)), DIFFERENCE_BITS)
    narrow = (difference + ((1 << shift) >> 1)) >> shift
    inverse, down = reciprocal_of(output.size)
    return narrow * inverse, out + shift - down + 1


def _in_steps(value: IntArray, shift: int) -> IntArray:
    """``value · 2**shift``, to nearest."""
    wide = value.astype(np.int64)
    if shift >= 0:
        return wide << shift
    down = min(-shift, MAX_SHIFT)
    return (wide + (1 << (down - 1))) >> down


def reciprocal_of(count: int) -> tuple[int, int]:
    """1/count as an integer of ``INVERSE_BITS`` bits, and how many of them are a fraction."""
    down = count.bit_length() + INVERSE_BITS - 1
    return ((2 << down) + count) // (2 * count), down
