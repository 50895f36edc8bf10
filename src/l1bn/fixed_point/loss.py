"""The gradient of soft-max cross-entropy in integers: powers of two from a table."""

from __future__ import annotations

import numpy as np

from l1bn.fixed_point.formats import IntArray

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
