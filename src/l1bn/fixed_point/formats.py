"""Number formats, rounding, saturation and the random bits of stochastic rounding.

Everything here works on NumPy integers. A value is ``integer · 2**-fraction``; the exponent of a
whole tensor stays outside, with its owner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
#: Per-channel scalars: Python integers in an object array, so that nothing can overflow.
ScalarArray = npt.NDArray[Any]
Rounding = Literal["nearest", "stochastic"]


class Noise(NamedTuple):
    """Names the random bits of one stochastic rounding, see ``random_bits``.

    Where a rounding takes one, None stands for rounding to nearest, ties up.

    Attributes:
        seed: Seed of the run.
        stream: Number of the tensor and the step.
    """

    seed: int
    stream: int


@dataclass(frozen=True)
class Format:
    """A signed two's-complement format: ``bits`` in all, ``fraction`` of them after the point.

    Raises:
        ValueError: If ``bits`` is outside 2 to 32.
    """

    bits: int
    fraction: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise ValueError(f"expected 2 to 32 bits, got {self.bits}; choose a narrower format")

    @property
    def low(self) -> int:
        """Smallest integer."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest integer."""
        return (1 << (self.bits - 1)) - 1

    def saturate(self, value: npt.ArrayLike) -> IntArray:
        """Clip integers to the format."""
        return np.clip(np.asarray(value), self.low, self.high).astype(np.int64)

    def check(self, name: str, value: npt.ArrayLike) -> IntArray:
        """Return ``value`` as int64 after checking that it holds integers of this format.

        Raises:
            TypeError: If the values are not integers.
            ValueError: If a value lies outside the format.
        """
        array = np.asarray(value)
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(
                f"{name}: expected integers, got {array.dtype}; quantize first, "
                "for example with Format.quantize"
            )
        if array.size and (array.min() < self.low or array.max() > self.high):
            raise ValueError(
                f"{name}: expected {self.bits}-bit values ({self.low} to {self.high}), got "
                f"{array.min()} to {array.max()}; rescale by a power of two or widen the format"
            )
        return array.astype(np.int64)

    def quantize(self, value: npt.ArrayLike) -> IntArray:
        """Round real numbers to the format: to nearest, ties up, saturated."""
        scaled = np.floor(np.asarray(value, dtype=np.float64) * 2.0**self.fraction + 0.5)
        return self.saturate(scaled)

    def real(self, value: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The real numbers that integers of this format stand for."""
        return np.asarray(value, dtype=np.float64) * 2.0**-self.fraction


def shift_right(value: IntArray, shift: IntArray, noise: IntArray | None = None) -> IntArray:
    """Divide by ``2**shift`` and round: to nearest with ties up, or by ``noise``.

    Args:
        value: Integers.
        shift: Shift amounts of at least 1, broadcast against ``value``.
        noise: Integers in ``[0, 2**shift)`` that are added before the shift (stochastic rounding);
            None adds one half.
    """
    half = np.int64(1) << (shift - 1)
    return (value + (half if noise is None else noise)) >> shift


def divide_nearest(numerator: ScalarArray, denominator: ScalarArray | int) -> ScalarArray:
    """Integer division rounded to nearest, ties up; the denominator is positive."""
    return (2 * numerator + denominator) // (2 * denominator)


def divide_truncated(numerator: ScalarArray, denominator: ScalarArray) -> ScalarArray:
    """Integer division rounded toward zero; the denominator is positive."""
    quotient = abs(numerator) // denominator
    return np.where(numerator < 0, -quotient, quotient)


def integer_root(value: ScalarArray) -> ScalarArray:
    """Largest integer whose square does not exceed ``value``."""
    return np.array([math.isqrt(v) for v in value.tolist()], dtype=object)


def random_bits(seed: int, stream: int, counter: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """Counter-based 32 random bits: the same (seed, stream, counter) gives the same bits anywhere.

    The 64-bit finalizer of SplitMix64 (Steele et al., OOPSLA 2014) over a Weyl sequence: integer
    multiplications, shifts and exclusive-ors only, no state.

    Args:
        seed: Chosen by the user, one per run.
        stream: One per tensor and step.
        counter: One per element.
    """
    start = stream_start(seed, stream)
    z = np.asarray(counter, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)


def stream_start(seed: int, stream: int) -> int:
    """The 64 bits from which ``random_bits`` counts."""
    mask = (1 << 64) - 1
    return _mix_int((seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03) & mask)


def _mix_int(z: int) -> int:
    mask = (1 << 64) - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def rounding_noise(
    shift: IntArray,
    shape: tuple[int, ...],
    seed: int,
    stream: int,
    counter: npt.NDArray[np.uint64] | None = None,
) -> IntArray:
    """Uniform integers in ``[0, 2**shift)`` for ``shift_right``, one per element.

    Args:
        shift: Shift amounts, at most 32.
        shape: Shape of the values.
        seed: Seed of the run.
        stream: Number of the tensor and step.
        counter: Place of each element in memory; None counts in the order of ``shape``.

    Shape:
        - shift: ``(C, 1)`` or broadcastable to ``shape``
        - counter: ``shape``
        - Output: ``shape``
    """
    if counter is None:
        counter = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
    bits = random_bits(seed, stream, counter).astype(np.int64)
    return bits >> (32 - np.minimum(shift, 32))
