"""The sum of two 8-bit tensors of different exponents: where errors of two branches meet."""

from __future__ import annotations

import numpy as np

from l1bn.fixed_point.formats import IntArray, Rounding
from l1bn.fixed_point.scaling import MAX_SHIFT, peak_shift, rescale

MAX_GAP = 16
"""Bits by which the exponents may differ before the smaller tensor loses bits."""


def add_scaled(
    a: IntArray,
    a_exponent: int,
    b: IntArray,
    b_exponent: int,
    bits: int = 8,
    *,
    rounding: Rounding = "nearest",
    seed: int = 0,
    stream: int = 0,
) -> tuple[IntArray, int]:
    """Add, and bring the sum back into ``bits`` bits.

    Returns:
        The sum and its exponent.

    Shape:
        - a, b, Output: the same
    """
    low, high = sorted((a_exponent, b_exponent))
    exponent = max(low, high - MAX_GAP)
    total = _align(a, a_exponent - exponent) + _align(b, b_exponent - exponent)
    shift = peak_shift(int(np.abs(total).max(initial=0)), bits)
    out = rescale(total, shift, bits, rounding=rounding, seed=seed, stream=stream)
    return out, exponent + shift


def _align(value: IntArray, shift: int) -> IntArray:
    value = value.astype(np.int64)
    if shift >= 0:
        return value << shift
    down = min(-shift, MAX_SHIFT)
    return (value + (1 << (down - 1))) >> down
