"""Constant statistics: the integer layer against the float64 formula, and how they move."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l1bn import fixed_point as fp
from l1bn.fixed_point.norm.constant import batch_mean, share, threshold_of
from l1bn.fixed_point.norm.running import part_way

K = math.sqrt(math.pi / 2)
SPEC = fp.NormSpec(width=8)
ONE = 1 << fp.RUNNING_BITS
CHANNELS = 10


def running_of(mean, sigma) -> fp.Running:
    codes = (np.round(np.asarray(v) * ONE).astype(np.int64) for v in (mean, np.square(sigma)))
    return fp.Running(*codes)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.sampled_from([1, 2, 7, 300]),
    residual=st.booleans(),
    relu=st.booleans(),
)
def test_one_step_from_float64(seed, count, residual, relu):
    rng = np.random.default_rng(seed)
    shape = (CHANNELS, count)
    mean, sigma = rng.normal(0, 15, CHANNELS), rng.uniform(8, 30, CHANNELS)
    x = SPEC.data.saturate(np.round(rng.normal(mean[:, None], sigma[:, None], shape)))
    g = SPEC.data.saturate(np.round(rng.normal(0, 25, shape)))
    gamma = SPEC.gamma.quantize(rng.uniform(-1.8, 1.8, CHANNELS))
    beta = SPEC.output.quantize(rng.normal(0, 0.5, CHANNELS))
    added = rng.integers(-60, 61, shape) if residual else None
    exponent, g_exponent = rng.integers(-7, -3, CHANNELS), -11
    out = fp.constant_layer_forward(x, running_of(mean, sigma), gamma, beta, SPEC, added, relu)
    back = fp.constant_layer_backward(g, x, out, SPEC, g_exponent, exponent, relu=relu)

    real = SPEC.gamma.real(gamma)[:, None]
    x_hat = (x - mean[:, None]) / sigma[:, None]
    y = np.clip(real * x_hat * 16 + beta[:, None], -128, 127)
    y = y if added is None else np.clip(y + added, -128, 127)
    assert np.abs(out.y - (np.maximum(y, 0) if relu else y)).max() < 1
    masked = np.where(out.y > 0, g, 0) if relu else g
    dx = real / (sigma[:, None] * 2.0 ** exponent[:, None]) * masked * 2.0**g_exponent
    found = back.dx * 2.0**back.exponent
    assert np.abs(found - dx).max() <= 0.52 * 2.0**back.exponent + 0.008 * np.abs(dx).max()
    dgamma = (masked * x_hat).sum(1)
    assert np.abs(back.dgamma - dgamma).max() < 1.31 + 0.002 * np.abs(masked * x_hat).sum(1).max()
    np.testing.assert_array_equal(back.dbeta.astype(int), masked.sum(1))
    np.testing.assert_array_equal(back.dresidual, masked)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 40), momentum=st.integers(1, 2048))
def test_averages_move_as_in_float64(seed, count, momentum):
    rng = np.random.default_rng(seed)
    mean, sigma = rng.normal(0, 30, CHANNELS), rng.uniform(0.5, 100, CHANNELS)
    running = running_of(mean, sigma)
    x = SPEC.data.saturate(np.round(rng.normal(20, 40, (CHANNELS, count))))
    moved = fp.toward(running, fp.sides(x, threshold_of(running)), momentum)
    part = momentum / 2048
    deviation = np.abs(x - running.mean[:, None] / ONE).mean(1)
    sigma_after = np.sqrt(running.variance / ONE) * (1 - part) + K * deviation * part
    mean_after = running.mean / ONE * (1 - part) + x.mean(1) * part
    assert np.abs(moved.mean.astype(float) / ONE - mean_after).max() < 2e-5
    found = np.sqrt(moved.variance.astype(float) / ONE)
    assert (np.abs(found - sigma_after) < 1e-4 + 1e-5 * sigma_after).all()


@pytest.mark.parametrize("count", [1, 4, 64])
def test_a_stream_of_small_batches_gives_the_deviation_of_all(count):
    """Around its own mean one value has no deviation, and four have too small a one."""
    rng = np.random.default_rng(0)
    mean, sigma = rng.normal(0, 10, CHANNELS), rng.uniform(10, 25, CHANNELS)
    running = None
    for batch in range(6000 // count):
        x = np.round(rng.normal(mean[:, None], sigma[:, None], (CHANNELS, count))).astype(np.int64)
        if running is None:
            nothing = np.zeros(CHANNELS, np.int64)
            running = fp.Running(batch_mean(fp.sides(x, nothing)), nothing)
        momentum = share(max(2, 16 * count // 8), batch)
        running = fp.toward(running, fp.sides(x, threshold_of(running)), momentum)
        running, unmoved = fp.settle(running, nothing, nothing)
        assert not unmoved.any()
    assert np.abs(running.mean / ONE - mean).max() < 0.1 * sigma.max()
    assert np.abs(np.sqrt(running.variance / ONE) / sigma - 1).max() < 0.1


def test_averages_that_should_stay_do():
    """σ is kept as its square: a root that is rounded down would let it sink."""
    x = np.arange(1, 101)[:, None] * np.array([-1, 1])
    nothing = np.zeros(100, np.int64)
    first = fp.toward(fp.Running(nothing, nothing), fp.sides(x, nothing), 2048)
    running = first
    for _ in range(5):
        running = fp.toward(running, fp.sides(x, threshold_of(running)), 1)
    np.testing.assert_array_equal(running.mean, first.mean)
    np.testing.assert_array_equal(running.variance, first.variance)


def test_a_part_of_the_way_is_rounded_to_nearest():
    old, new = np.zeros(5, np.int64), np.array([1, 3, -1, 100, -100])
    assert part_way(old, new, 1024).tolist() == [1, 2, 0, 50, -50]
    assert part_way(old, new, 512).tolist() == [0, 1, 0, 25, -25]


def test_the_first_batches_count_as_a_plain_average():
    assert [share(205, n) for n in (0, 1, 2, 8, 9, 10, 10**6)] == [
        2048, 1024, 683, 228, 205, 205, 205,
    ]  # fmt: skip
    assert share(1, 10**6) == 1


@settings(max_examples=60, deadline=None)
@given(
    mean=st.integers(-(1 << 24), 1 << 24),
    sigma=st.integers(1, 330 << 16),
    seen=st.integers(-9, 9),
)
def test_settled_averages_are_the_same_numbers(mean, sigma, seen):
    before = fp.Running(np.array([mean], object), np.array([(sigma * sigma) >> 16], object))
    after, exponent = fp.settle(before, np.array([0]), np.array([seen]))
    change = int(exponent[0])
    assert change in (-1, 0, 1)
    assert change == 1 or before.variance[0] <= 1 << 30
    assert change > -1 or seen <= -2
    assert abs(after.mean[0] * 2.0**change - mean) <= 1
    assert abs(after.variance[0] * 4.0**change - before.variance[0]) <= 2
    assert after.variance[0] < 1 << 31


def test_an_average_at_the_end_of_the_range_of_thresholds():
    running = fp.Running(np.array([-(1 << 30), 1 << 30, 5 << 16]), np.array([ONE] * 3))
    assert threshold_of(running).tolist() == [-128, 128, 5]
