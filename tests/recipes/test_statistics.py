from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from l1bn.recipes.statistics import compare_paired, excludes_zero, summarize

A, B = [0.914, 0.921, 0.917, 0.911], [0.912, 0.915, 0.919, 0.905]


def test_summary_is_mean_and_sample_deviation() -> None:
    summary = summarize(A)
    assert summary.mean == pytest.approx(np.mean(A))
    assert summary.std == pytest.approx(np.std(A, ddof=1))
    assert summary.n == 4
    assert summarize([0.5]).std == 0.0


def test_intervals_are_those_of_the_t_tests() -> None:
    difference = compare_paired(A, B)
    paired = stats.ttest_rel(A, B).confidence_interval()
    welch = stats.ttest_ind(A, B, equal_var=False).confidence_interval()
    assert difference.mean == pytest.approx(np.mean(A) - np.mean(B))
    assert difference.paired == pytest.approx((paired.low, paired.high))
    assert difference.welch == pytest.approx((welch.low, welch.high))
    assert difference.detected is False


def test_a_clear_difference_is_detected_and_one_seed_is_not_enough() -> None:
    shifted = [a - 0.05 + 0.001 * i for i, a in enumerate(A)]
    assert compare_paired(A, shifted).detected is True
    assert compare_paired(shifted, A).detected is True
    single = compare_paired([0.9], [0.5])
    assert single.paired is single.welch is single.detected is None


def test_pairs_can_differ_by_less_than_seeds() -> None:
    spread = [0.8, 0.85, 0.9, 0.95]
    above = [a + 0.01 + 0.001 * i for i, a in enumerate(spread)]
    difference = compare_paired(above, spread)
    assert difference.detected is False
    assert difference.only_in_pairs is True
    assert compare_paired(A, B).only_in_pairs is False
    far = compare_paired([a - 0.5 for a in above], spread)
    assert (far.detected, far.only_in_pairs) == (True, False)
    assert compare_paired([0.9], [0.5]).only_in_pairs is False


@pytest.mark.parametrize(
    ("interval", "outside"),
    [((0.1, 1.0), True), ((-1.0, -0.1), True), ((-0.1, 0.1), False), ((0.0, 1.0), False)],
)
def test_zero_outside(interval: tuple[float, float], outside: bool) -> None:
    assert excludes_zero(interval) is outside
    assert excludes_zero(None) is False


def test_equal_values_have_no_difference() -> None:
    same = compare_paired([0.9, 0.9], [0.9, 0.9])
    assert same.paired == (0.0, 0.0)
    assert same.detected is False


def test_lists_must_match() -> None:
    with pytest.raises(ValueError, match="expected as many values on both sides, got 2, 1"):
        compare_paired([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="got 0, 0"):
        compare_paired([], [])
