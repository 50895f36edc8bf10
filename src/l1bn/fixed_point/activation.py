"""ReLU6 and Hardswish on integers: constants become steps of the tensor's power of two."""

from __future__ import annotations

import numpy as np

from l1bn.fixed_point.formats import IntArray

SLOPE_BITS = 6
"""Fraction bits of Hardswish's slope, which lies between −0.5 and 1.5."""
_FAR = 16
"""Exponents beyond ±16 are as these: 3 is out of reach of 8 bits, or less than a step."""


def six(exponent: int) -> int:
    """6 in steps of ``2**exponent``, to nearest, ties up; more than 8 bits hold is no limit."""
    if exponent <= 0:
        return 6 << min(-exponent, _FAR)
    return (6 + (1 << (min(exponent, _FAR) - 1))) >> min(exponent, _FAR)


def relu6(x: IntArray, exponent: int) -> IntArray:
    """min(max(x, 0), 6)."""
    return np.clip(x, 0, six(exponent))


def _units(x: IntArray, exponent: int) -> tuple[IntArray, int]:
    """The input and 1, in steps that hold both."""
    e = max(min(exponent, _FAR), -_FAR)
    return x.astype(np.int64) << max(e, 0), 1 << max(-e, 0)


def hardswish(x: IntArray, exponent: int) -> IntArray:
    """X · min(max(x + 3, 0), 6) / 6 in the input's steps, to nearest, ties up."""
    wide, one = _units(x, exponent)
    gate = np.clip(wide + 3 * one, 0, 6 * one)
    return (2 * x.astype(np.int64) * gate + 6 * one) // (12 * one)


def hardswish_slopes(x: IntArray, exponent: int) -> IntArray:
    """The derivative with ``SLOPE_BITS`` fraction bits, to nearest: x/3 + 1/2 within ±3."""
    wide, one = _units(x, exponent)
    inside = ((2 * wide + 3 * one) * (2 << SLOPE_BITS) + 6 * one) // (12 * one)
    slopes = np.where(wide >= 3 * one, 1 << SLOPE_BITS, inside)
    return np.where(wide <= -3 * one, 0, slopes)
