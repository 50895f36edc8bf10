"""Scaled integers: how wide results become 8-bit tensors again.

A tensor stands for ``values · 2**exponent``, with one exponent for all of it or one per channel.
Values of ``bits`` bits are kept symmetric, ±(2**(bits−1) − 1), so that a product never has the one
magnitude that only two lowest values give.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from l1bn.fixed_point.formats import IntArray, Rounding, rounding_noise

MAX_SHIFT = 31
"""Largest right shift of a 32-bit value."""


def peak_shift(peak: int, bits: int = 8) -> int:
    """Right shift that brings magnitudes up to ``peak`` into ``bits`` bits, before rounding."""
    return max(0, int(peak).bit_length() - (bits - 1))


def common_exponent(
    peaks: npt.ArrayLike, exponents: npt.ArrayLike, bits: int = 8
) -> tuple[int, IntArray]:
    """One exponent for channels of different scales, and the right shift of each channel.

    The exponent is the smallest at which no channel's peak is clipped by more than its rounding;
    every shift is at least 1 and at most ``MAX_SHIFT``. Channels of zeros do not take part.

    Args:
        peaks: Largest magnitude of each channel.
        exponents: Exponent of each channel.
        bits: Bits of the result [bit].

    Shape:
        - peaks, exponents: ``(C,)``
        - Output: a number, ``(C,)``
    """
    peak, exponent = (np.asarray(a, dtype=np.int64) for a in (peaks, exponents))
    needed = [
        e + max(1, peak_shift(p, bits))
        for p, e in zip(peak.tolist(), exponent.tolist(), strict=True)
        if p > 0
    ]
    out = max(needed, default=0)
    return out, np.clip(out - exponent, 1, MAX_SHIFT)


def memory_order(shape: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    """Place of each element of an ``(N, C, *S)`` tensor that is stored channels-last.

    It is the counter of stochastic rounding, so that a result does not depend on how an
    implementation walks the tensor.

    Shape:
        - Output: ``shape``
    """
    if len(shape) < 3:
        return np.arange(np.prod(shape, dtype=int), dtype=np.uint64).reshape(shape)
    n, c, *rest = shape
    order = np.arange(np.prod(shape, dtype=int), dtype=np.uint64).reshape((n, *rest, c))
    return np.moveaxis(order, -1, 1)


def rescale(
    value: IntArray,
    shift: npt.ArrayLike,
    bits: int = 8,
    *,
    rounding: Rounding = "nearest",
    seed: int = 0,
    stream: int = 0,
    counter: npt.NDArray[np.uint64] | None = None,
) -> IntArray:
    """Shift right with rounding, then saturate symmetrically.

    Args:
        value: Integers.
        shift: 0 to ``MAX_SHIFT``, broadcast against ``value``; 0 leaves a value as it is.
        bits: Bits of the result [bit].
        rounding: "nearest" (ties up) or "stochastic".
        seed: Seed of the stochastic rounding.
        stream: Number of the tensor and step, see ``random_bits``.
        counter: Place of each element in memory; None takes ``memory_order``.

    Shape:
        - value, counter: any
        - Output: that of ``value``
    """
    s = np.asarray(shift, dtype=np.int64)
    if rounding == "stochastic":
        place = memory_order(value.shape) if counter is None else counter
        added = rounding_noise(s, value.shape, seed, stream, place)
    else:
        added = (np.int64(1) << s) >> 1
    high = (1 << (bits - 1)) - 1
    return np.clip((value + added) >> s, -high, high)
