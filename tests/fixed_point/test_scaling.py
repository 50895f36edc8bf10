"""Rescaling against exact fractions, its random bits, and the exponent that channels share."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l1bn.fixed_point import common_exponent, memory_order, peak_shift, rescale
from l1bn.fixed_point.scaling import MAX_SHIFT

int32 = st.integers(1 - 2**31, 2**31 - 1)


@settings(deadline=None)
@given(value=int32, shift=st.integers(0, MAX_SHIFT), bits=st.integers(2, 8))
def test_nearest_rounds_ties_up_and_saturates_symmetrically(value, shift, bits):
    high = 2 ** (bits - 1) - 1
    exact = floor(Fraction(value, 2**shift) + Fraction(1, 2))
    assert rescale(np.array([value]), shift, bits) == max(-high, min(high, exact))


@settings(deadline=None)
@given(value=int32, shift=st.integers(0, MAX_SHIFT), seed=st.integers(0, 2**40))
def test_stochastic_takes_a_neighbour(value, shift, seed):
    got = rescale(np.array([value]), shift, 32, rounding="stochastic", seed=seed, stream=3)
    exact = Fraction(value, 2**shift)
    assert abs(got[0] - exact) < 1
    if exact.denominator == 1:
        assert got == exact


def test_stochastic_rounding_is_right_in_the_mean():
    for share in (1, 13, 32, 51, 63):  # of 64
        value = np.full(20_000, 5 * 64 + share)
        got = rescale(value, 6, rounding="stochastic", seed=1, stream=share)
        assert set(np.unique(got)) == {5, 6}
        deviation = np.sqrt(share * (64 - share)) / 64 / np.sqrt(value.size)
        assert abs(got.mean() - 5 - share / 64) < 4 * deviation


def test_noise_follows_the_place_in_memory():
    rng = np.random.default_rng(0)
    image = rng.integers(-5000, 5000, (3, 5, 4, 2))
    options = {"rounding": "stochastic", "seed": 4, "stream": 9}
    rows = np.moveaxis(image, 1, -1).reshape(-1, 5)  # as it is stored
    expected = np.moveaxis(rescale(rows, 6, **options).reshape(3, 4, 2, 5), -1, 1)
    np.testing.assert_array_equal(rescale(image, 6, **options), expected)
    assert (rescale(image, 6, **{**options, "stream": 10}) != expected).any()
    assert (rescale(image, 6, **{**options, "seed": 5}) != expected).any()


def test_memory_order_is_torch_channels_last():
    for shape in ((2, 3), (2, 3, 4, 5)):
        order = torch.from_numpy(memory_order(shape).astype(np.int64))
        if len(shape) == 4:
            order = order.contiguous(memory_format=torch.channels_last)
        stored = torch.as_strided(order, (order.numel(),), (1,))
        assert torch.equal(stored, torch.arange(order.numel()))


def test_peak_shift():
    assert [peak_shift(p, 8) for p in (0, 1, 127, 128, 255, 256, 2**31)] == [0, 0, 0, 1, 1, 2, 25]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**31 - 1), st.integers(-15, 15)), min_size=1, max_size=8
    ).filter(lambda pairs: any(p for p, _ in pairs)),
    st.integers(2, 8),
)
def test_common_exponent_is_the_smallest_that_holds_every_channel(pairs, bits):
    peaks, exponents = (np.array(a) for a in zip(*pairs, strict=True))
    exponent, shift = common_exponent(peaks, exponents, bits)
    assert ((shift >= 1) & (shift <= MAX_SHIFT)).all()
    used = peaks > 0
    np.testing.assert_array_equal(shift[used], np.minimum(exponent - exponents[used], MAX_SHIFT))
    high = 2 ** (bits - 1)
    assert ((peaks >> shift) < high).all()
    # One bit finer, a channel would be clipped, or shifted by less than one bit.
    assert any(exponent - 1 - e < 1 or (p >> (exponent - 1 - e)) >= high for p, e in pairs if p)


def test_channels_of_zeros_take_no_part():
    assert common_exponent([0, 0], [5, -3])[0] == 0
    exponent, shift = common_exponent([0, 1000], [40, -3])
    assert exponent == 0
    assert shift.tolist() == [1, 3]
