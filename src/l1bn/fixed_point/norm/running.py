"""Running statistics and evaluation in integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l1bn.fixed_point.formats import IntArray, ScalarArray, divide_nearest, integer_root
from l1bn.fixed_point.norm.normalize import normalize
from l1bn.fixed_point.norm.spec import FRACTION_BITS, INVERSE_K, K, NormSpec
from l1bn.fixed_point.norm.statistics import L1Statistics, L2Statistics, check_data

#: Fraction bits of the running mean and of the running σ.
RUNNING_BITS = 16
#: Shares of a batch count 1/2048.
MOMENTUM_BITS = 11


@dataclass(frozen=True)
class Running:
    """Moving averages in Q.16 steps of x: the mean and the square of σ, BatchNorm's variance.

    Attributes:
        mean: μ · 2**16.
        variance: σ² · 2**16, with Bessel's correction M/(M−1). 8-bit data fit int32.

    Shape:
        - mean, variance: ``(C,)``
    """

    mean: IntArray
    variance: IntArray

    @classmethod
    def initial(cls, channels: int) -> Running:
        """Mean 0 and variance 1, as BatchNorm starts."""
        one = np.full(channels, 1 << RUNNING_BITS, dtype=np.int64)
        return cls(np.zeros(channels, dtype=np.int64), one)

    def update(
        self,
        statistics: L1Statistics | L2Statistics,
        momentum: int = 205,
        shift: IntArray | int = 0,
    ) -> Running:
        """Move by ``momentum / 2**11`` (default: 0.1) toward the statistics of a batch.

        Args:
            statistics: Those of the batch.
            momentum: Share of the batch, of 2048.
            shift: By how many powers of two the batch's steps are finer than these averages'.

        Raises:
            ValueError: If ``momentum`` is outside 1 to 2048.
        """
        if not 1 <= momentum <= 1 << MOMENTUM_BITS:
            raise ValueError(f"momentum: expected 1 to 2048 (of 2048), got {momentum}")
        batch = self.of(statistics, shift)
        return Running(
            part_way(self.mean, batch.mean, momentum).astype(np.int64),
            part_way(self.variance, batch.variance, momentum).astype(np.int64),
        )

    @classmethod
    def of(cls, statistics: L1Statistics | L2Statistics, shift: IntArray | int = 0) -> Running:
        """The statistics of one batch, in steps that are ``2**shift`` times as coarse."""
        count = statistics.count
        step = np.asarray(shift, dtype=object)
        mean = divide_nearest(statistics.total << RUNNING_BITS, count << step)
        if isinstance(statistics, L1Statistics):
            # σ = k·A/M²; the square carries 2·FRACTION_BITS fraction bits of k.
            numerator = (K * K * statistics.deviation**2) << RUNNING_BITS
            denominator = (count**4) << (2 * FRACTION_BITS)
        else:
            numerator = statistics.root**2 << RUNNING_BITS
            denominator = count**2
        divisor = (denominator * (count - 1)) << (2 * step)
        return cls(_to_int32(mean), _to_int32(divide_nearest(numerator * count, divisor)))

    def rescaled(self, shift: IntArray) -> Running:
        """The same averages in steps that are ``2**shift`` times as coarse, within 32 bits."""
        return Running(_coarsen(self.mean, shift), _coarsen(self.variance, 2 * shift))


def _coarsen(value: IntArray, shift: IntArray) -> IntArray:
    wide = value.astype(object)
    up, down = np.maximum(-shift, 0).astype(object), np.maximum(shift, 0).astype(object)
    return _to_int32(((2 * wide << up) + (1 << down)) >> (down + 1))


def _to_int32(value: ScalarArray) -> IntArray:
    limit = (1 << 31) - 1
    return np.clip(value, -limit, limit).astype(np.int64)


def part_way(old: ScalarArray, new: ScalarArray, momentum: int) -> ScalarArray:
    """``old`` moved by ``momentum / 2**11`` of the way to ``new``, rounded to nearest.

    Shape:
        - old, new, Output: ``(C,)``
    """
    old = old.astype(object)
    return old + (((new - old) * momentum + (1 << (MOMENTUM_BITS - 1))) >> MOMENTUM_BITS)


def evaluate(
    x: IntArray, running: Running, gamma: IntArray, beta: IntArray, spec: NormSpec
) -> IntArray:
    """Normalize with running statistics: the same element path as in training.

    Shape:
        - x: ``(C, M)``
        - gamma, beta: ``(C,)``
        - Output: ``(C, M)``, integers of ``spec.output``
    """
    x = check_data("x", x, spec)
    return normalize(x, evaluation_statistics(running, spec), gamma, beta, spec)[0]


def evaluation_statistics(running: Running, spec: NormSpec) -> L1Statistics:
    """Running statistics in the form that ``fold`` takes: those of a channel of 2**16 elements."""
    count = 1 << RUNNING_BITS
    sigma = integer_root(running.variance.astype(object) << RUNNING_BITS)
    deviation = (sigma * INVERSE_K * count) >> FRACTION_BITS
    deviation = np.maximum(deviation, spec.deviation_floor(count))
    total = running.mean.astype(object)
    flags = np.ones(len(total), dtype=bool)
    zeros = np.zeros(len(total), np.int64)
    return L1Statistics(
        count=count,
        total=total,
        threshold=zeros,
        above=total,
        deviation=deviation,
        live=flags,
        second_pass=flags,
    )
