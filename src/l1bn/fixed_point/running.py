"""Running statistics and evaluation in integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l1bn.fixed_point.formats import IntArray, ScalarArray, divide_nearest, integer_root
from l1bn.fixed_point.normalize import normalize
from l1bn.fixed_point.spec import FRACTION_BITS, INVERSE_K, K, NormSpec
from l1bn.fixed_point.statistics import L1Statistics, check_data

#: Fraction bits of the running mean and of the running σ.
RUNNING_BITS = 16


@dataclass(frozen=True)
class Running:
    """Moving averages in Q.16 steps of x: the mean and the square of σ, BatchNorm's variance.

    Attributes:
        mean: μ · 2**16.
        variance: σ² · 2**16, with Bessel's correction M/(M−1). 8-bit data fit int32.

    Shape:
        - mean, variance: (C,)
    """

    mean: IntArray
    variance: IntArray

    @classmethod
    def initial(cls, channels: int) -> Running:
        """Mean 0 and variance 1, as BatchNorm starts."""
        one = np.full(channels, 1 << RUNNING_BITS, dtype=np.int64)
        return cls(np.zeros(channels, dtype=np.int64), one)

    def update(self, statistics: L1Statistics, momentum: int = 205) -> Running:
        """Move by ``momentum / 2**11`` (default: 0.1) toward the statistics of a batch.

        Raises:
            ValueError: If ``momentum`` is outside 1 to 2048.
        """
        if not 1 <= momentum <= 1 << 11:
            raise ValueError(f"momentum: expected 1 to 2048 (of 2048), got {momentum}")
        count = statistics.count
        mean = divide_nearest(statistics.total << RUNNING_BITS, count)
        # σ = k·A/M²; the square carries 2·FRACTION_BITS fraction bits of k.
        numerator = (K * K * statistics.deviation**2) << RUNNING_BITS
        denominator = ((count**4) << (2 * FRACTION_BITS)) * (count - 1)
        variance = divide_nearest(numerator * count, denominator)
        return Running(
            _toward(self.mean, mean, momentum), _toward(self.variance, variance, momentum)
        )


def _toward(old: IntArray, new: ScalarArray, momentum: int) -> IntArray:
    step = ((new - old.astype(object)) * momentum + (1 << 10)) >> 11
    return (old.astype(object) + step).astype(np.int64)


def evaluate(
    x: IntArray, running: Running, gamma: IntArray, beta: IntArray, spec: NormSpec
) -> IntArray:
    """Normalize with running statistics: the same element path as in training.

    Shape:
        - x: (C, M)
        - gamma, beta: (C,)
        - Output: (C, M), integers of ``spec.output``
    """
    x = check_data("x", x, spec)
    count = 1 << RUNNING_BITS
    # σ in Q.16, expressed as the deviation of a channel of 2**16 elements.
    sigma = integer_root(running.variance.astype(object) << RUNNING_BITS)
    deviation = (sigma * INVERSE_K * count) >> FRACTION_BITS
    deviation = np.maximum(deviation, spec.deviation_floor(count))
    total = running.mean.astype(object)
    flags = np.ones(len(x), dtype=bool)
    statistics = L1Statistics(
        count, total, np.zeros(len(x), np.int64), total, deviation, flags, flags
    )
    return normalize(x, statistics, gamma, beta, spec)[0]
