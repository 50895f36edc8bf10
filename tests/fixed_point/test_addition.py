"""The sum of scaled tensors against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from l1bn.fixed_point import add_scaled
from l1bn.fixed_point.addition import MAX_GAP

int8 = arrays(np.int8, 6, elements=st.integers(-128, 127))


@settings(deadline=None)
@given(a=int8, b=int8, x=st.integers(-40, 10), gap=st.integers(-50, 50), bits=st.integers(3, 8))
def test_error_is_below_a_step(a, b, x, gap, bits):
    total, exponent = add_scaled(a, x, b, x + gap, bits)
    swapped, swapped_exponent = add_scaled(b, x + gap, a, x, bits)
    assert exponent == swapped_exponent
    np.testing.assert_array_equal(total, swapped)
    high = 2 ** (bits - 1) - 1
    assert np.abs(total).max() <= high
    # What is aligned within MAX_GAP is exact. Rounding errs by half a step, and a peak just below
    # the next power of two is clipped by the other half.
    aligned, lossy = max(min(x, x + gap), max(x, x + gap) - MAX_GAP), abs(gap) > MAX_GAP
    limit = 0.5 * lossy if exponent == aligned else 1 + 0.25 * lossy
    for p, q, got in zip(a.tolist(), b.tolist(), total.tolist(), strict=True):
        exact = Fraction(p) * Fraction(2) ** x + Fraction(q) * Fraction(2) ** (x + gap)
        assert abs(exact / Fraction(2) ** exponent - got) <= limit
    assert exponent == aligned or np.abs(total).max() >= high // 2


def test_sum_that_fits_is_exact():
    total, exponent = add_scaled(np.array([3, -5]), -4, np.array([2, 7]), -2)
    assert (total.tolist(), exponent) == ([11, 23], -4)


def test_what_is_aligned_beyond_the_gap_is_rounded():
    total, exponent = add_scaled(np.zeros(3, dtype=int), 20, np.array([3, 9, -127]), 0)
    assert (total.tolist(), exponent) == ([0, 1, -8], 20 - MAX_GAP)


def test_stochastic_rounding_is_right_in_the_mean():
    a, b = np.full(20_000, 127), np.full(20_000, 2)
    b[0] = 100  # the peak that asks for one bit less
    total, exponent = add_scaled(a, 0, b, 0, rounding="stochastic", seed=3, stream=5)
    assert exponent == 1
    assert abs(total[1:].mean() - 64.5) < 0.02
