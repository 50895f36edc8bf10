"""Means over seeds, and whether a difference is more than seed noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from l1bn.recipes.results import DifferenceRecord, SummaryRecord


@dataclass(frozen=True)
class Summary:
    """A mean over seeds.

    Attributes:
        mean: Mean.
        std: Sample standard deviation (n - 1), NaN-free: 0 for one value.
        n: Number of values.
    """

    mean: float
    std: float
    n: int

    def record(self) -> SummaryRecord:
        """Return it as results keep it."""
        return {"mean": self.mean, "std": self.std, "n": self.n}


@dataclass(frozen=True)
class Difference:
    """A difference of means with its 95 % confidence intervals, None for a single seed.

    Attributes:
        mean: Mean of the first minus mean of the second.
        paired: Interval from the differences seed by seed (Student's t, n - 1 degrees of freedom).
        welch: Interval that treats the two as independent samples (Welch's t).
    """

    mean: float
    paired: tuple[float, float] | None
    welch: tuple[float, float] | None

    @property
    def detected(self) -> bool | None:
        """Whether both intervals exclude zero; None if one seed leaves it open."""
        if self.paired is None or self.welch is None:
            return None
        return excludes_zero(self.paired) and excludes_zero(self.welch)

    @property
    def only_in_pairs(self) -> bool:
        """Whether pairs of equal seed differ, but by less than seeds among themselves."""
        return excludes_zero(self.paired) and not excludes_zero(self.welch)

    def record(self) -> DifferenceRecord:
        """Return it as results keep it."""
        return {
            "mean": self.mean,
            "paired": self.paired,
            "welch": self.welch,
            "detected": self.detected,
        }


def excludes_zero(interval: Sequence[float] | None) -> bool:
    """Return whether an interval lies on one side of zero; none does not."""
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def summarize(values: Sequence[float]) -> Summary:
    """Return mean and sample standard deviation."""
    data = np.asarray(values, dtype=np.float64)
    return Summary(float(data.mean()), float(data.std(ddof=1)) if len(data) > 1 else 0.0, len(data))


def compare_paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare two variants that ran with the same seeds.

    Args:
        first: Values of one variant, by seed.
        second: Values of the other, by the same seeds.

    Raises:
        ValueError: If the numbers of values differ or there are none.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"expected as many values on both sides, got {len(first)}, {len(second)}")
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    n, mean = len(a), float((a - b).mean())
    if n == 1:
        return Difference(mean, None, None)
    squares = np.array([a.var(ddof=1), b.var(ddof=1)]) / n
    error = math.sqrt(squares.sum())
    freedom = squares.sum() ** 2 / (squares**2 / (n - 1)).sum() if error > 0 else n - 1.0
    paired_error = float((a - b).std(ddof=1)) / math.sqrt(n)
    return Difference(
        mean, _interval(mean, paired_error, n - 1.0), _interval(mean, error, float(freedom))
    )


def _interval(mean: float, error: float, freedom: float) -> tuple[float, float]:
    half = float(stats.t.ppf(0.975, freedom)) * error
    return mean - half, mean + half
