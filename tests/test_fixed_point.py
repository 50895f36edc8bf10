"""Integer L1BN and L2BN against float64, their widths at the extremes, and their guards."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from l1bn import fixed_point as fp

K = math.sqrt(math.pi / 2)


def float_model(x, g, gamma, beta, norm):
    """The float64 definition: y, dx and dγ."""
    count = x.shape[1]
    d = x - x.mean(1, keepdims=True)
    if norm == "l1":
        sigma = K * np.abs(d).mean(1, keepdims=True)
    else:
        sigma = np.sqrt((d * d).mean(1, keepdims=True))
    x_hat = d / sigma
    dgamma = (g * x_hat).sum(1, keepdims=True)
    if norm == "l1":
        sign = np.where(d >= 0, 1.0, -1.0)
        spread = K * (sign - sign.mean(1, keepdims=True)) * dgamma / count
    else:
        spread = x_hat * dgamma / count
    dx = gamma[:, None] / sigma * (g - g.mean(1, keepdims=True) - spread)
    return gamma[:, None] * x_hat + beta[:, None], dx, dgamma[:, 0]


def channels(width, count, seed=0, skew=False):
    """Channels of several means and spreads, with gradients that correlate with x."""
    rng = np.random.default_rng(seed)
    spec = fp.NormSpec(width=width)
    unit = 2.0 ** (width - 3)
    noise = rng.exponential(1, (16, count)) if skew else rng.normal(0, 1, (16, count))
    mean, spread = rng.normal(0, 0.3, (16, 1)), rng.uniform(0.3, 1, (16, 1))
    x = spec.data.saturate(np.round(unit * (mean + spread * noise)))
    g = spec.data.saturate(np.round(unit * rng.normal(0, 1, x.shape) + 0.3 * x))
    gamma = spec.gamma.quantize(rng.uniform(-1.8, 1.8, 16))
    return spec, x, g, gamma, spec.output.quantize(rng.normal(0, 0.5, 16))


def run(norm, spec, x, g, gamma, beta, **options):
    forward = fp.l1_forward if norm == "l1" else fp.l2_forward
    backward = fp.l1_backward if norm == "l1" else fp.l2_backward
    out = forward(x, gamma, beta, spec, **options)
    return out, backward(g, x, out.channel, spec)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("skew", [False, True])
@pytest.mark.parametrize(("width", "count"), [(8, 1000), (8, 256), (12, 333), (16, 1024)])
def test_error_against_float64_is_one_step(norm, skew, width, count):
    spec, x, g, gamma, beta = channels(width, count, skew=skew)
    out, back = run(norm, spec, x, g, gamma, beta)
    y, dx, dgamma = float_model(x, g, spec.gamma.real(gamma), spec.output.real(beta), norm)
    limits = spec.data.low, spec.data.high
    y_error = out.y - np.clip(y * 2**spec.output.fraction, *limits)
    dx_error = back.dx - np.clip(dx * 2**spec.gradient.fraction, *limits)
    # Rounding alone has a maximum of 0.5 and a deviation of 1/√12 = 0.289 steps.
    assert np.abs(y_error).max() < 1.0
    assert y_error.std() < 0.305
    assert np.abs(dx_error).max() < 1.25
    assert dx_error.std() < 0.32
    assert np.abs(back.dgamma - dgamma).max() <= 2e-3 * np.abs(dgamma).max()
    np.testing.assert_array_equal(back.dbeta, g.sum(1))


def test_gradient_has_no_mean_and_none_along_sgn():
    spec, x, g, gamma, beta = channels(16, 4096, skew=True)
    out, back = run("l1", spec, x, g, gamma, beta)
    unsaturated = (np.abs(back.dx) < spec.data.high).all(1)
    assert unsaturated.any()
    dx = back.dx[unsaturated].astype(float)
    # The deviation Σ|x−μ| must not change to first order: Σ dx·x = 0, and Σ dx = 0.
    scale = np.abs(dx).sum(1)
    assert (np.abs(dx.sum(1)) < 2e-4 * scale).all()
    d = x[unsaturated] - x[unsaturated].mean(1, keepdims=True)
    assert (np.abs((dx * d).sum(1)) < 1e-3 * np.abs(dx * d).sum(1)).all()
    assert out.bits.sum() == out.channel.statistics.above.sum()


small_channels = arrays(
    np.int64, st.tuples(st.just(1), st.integers(2, 40)), elements=st.integers(-128, 127)
)


@given(small_channels)
def test_deviation_is_exact(x):
    count = x.shape[1]
    spec = fp.NormSpec(width=8)
    mean = Fraction(int(x.sum()), count)
    expected = sum(abs(Fraction(int(v)) - mean) for v in x[0]) * count
    got = fp.l1_statistics(x, spec)
    floor = spec.deviation_floor(count)
    assert got.deviation[0] == max(expected, floor)
    assert bool(got.live[0]) == (expected > floor)
    assert got.above[0] == sum(Fraction(int(v)) >= mean for v in x[0])


@given(small_channels, st.integers(-128, 127))
def test_one_pass_is_a_lower_bound_within_its_guard(x, guess):
    spec = fp.NormSpec(width=8)
    exact = fp.l1_statistics(x, spec)
    one_pass = fp.l1_statistics(x, spec, np.array([guess]))
    assert one_pass.deviation[0] <= exact.deviation[0]
    assert 3 * one_pass.deviation[0] >= 2 * exact.deviation[0]
    if one_pass.second_pass[0] or guess == exact.threshold[0]:
        assert one_pass.deviation[0] == exact.deviation[0]


def test_one_pass_with_a_near_guess_needs_no_second_pass():
    spec, x, *_ = channels(8, 2048)
    exact = fp.l1_statistics(x, spec)
    near = fp.l1_statistics(x, spec, exact.threshold + 1)
    assert not near.second_pass.any()
    error = 1 - near.deviation.astype(float) / exact.deviation.astype(float)
    assert error.min() >= 0
    assert error.max() < 0.02
    far = fp.l1_statistics(x, spec, np.clip(exact.threshold + 40, -128, 127))
    assert far.second_pass.all()


@given(small_channels)
def test_l2_root_is_exact(x):
    spec = fp.NormSpec(width=8)
    count = x.shape[1]
    variance = count * int((x * x).sum()) - int(x.sum()) ** 2
    two_pass_mean = int(x.sum()) // count
    rest = int(x.sum()) - count * two_pass_mean
    assert variance == count * int(((x - two_pass_mean) ** 2).sum()) - rest**2
    root = int(fp.l2_statistics(x, spec).root[0])
    assert root == max(math.isqrt(variance), spec.root_floor(count))


@settings(max_examples=60)
@given(
    st.integers(4, 16),
    st.sampled_from([2, 3, 4, 16, 64, 100]),
    st.sampled_from(["l1", "l2"]),
    st.sampled_from(["exact", "pow2"]),
    st.randoms(use_true_random=False),
)
def test_nothing_exceeds_its_width(width, count, norm, sigma, random):
    """Data drawn from the ends of the format drive every intermediate to its extreme."""
    spec = fp.NormSpec(width=width, sigma=sigma)
    low, high = spec.data.low, spec.data.high
    values = [low, high, 0, random.randint(low, high)]
    x = np.array([[random.choice(values) for _ in range(count)]])
    g = np.array([[random.choice(values[:2]) for _ in range(count)]])
    gamma = np.array([random.choice([spec.gamma.low, spec.gamma.high])])
    beta = np.array([random.choice([spec.output.low, spec.output.high])])
    out, back = run(norm, spec, x, g, gamma, beta)
    need = fp.widths(spec, count)

    def fits(value, bits):
        return -(1 << (bits - 1)) <= int(value) < 1 << (bits - 1)

    channel = out.channel
    assert fits(x.sum(), need.sum)
    assert fits((g * x).sum(), need.product)
    assert fits(count * (g * x).sum(), need.covariance)
    assert spec.shift_min <= channel.shift[0] <= spec.shift_max
    assert spec.coefficient.low <= channel.coefficient[0] <= spec.coefficient.high
    if norm == "l1":
        assert fits(channel.statistics.deviation[0], need.deviation)
    product = x[0] * int(channel.coefficient[0])
    offset = -channel.coefficient[0] * x.sum() // count + (int(beta[0]) << channel.shift[0])
    for v in (product.min() + offset, product.max() + offset):
        assert fits(v + (1 << (channel.shift[0] - 1)), need.element)
    assert abs(back.dgamma[0]) <= count * (1 << width)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_element_path_fits_int32(norm):
    """Eight-bit layers need no accumulator beyond 32 bits, whatever the data."""
    spec = fp.NormSpec(width=8)
    assert fp.check_accumulators(spec, 1 << 16).element <= 32
    with pytest.raises(ValueError, match=r"Σg·x of 131072 elements.*blocks of 65536 elements"):
        fp.check_accumulators(spec, 1 << 17)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("value", [-128, -1, 0, 127])
def test_constant_channel_gives_beta_and_finite_gradient(norm, value):
    spec = fp.NormSpec(width=8)
    x = np.full((1, 64), value)
    g = np.arange(-32, 32)[None]
    gamma, beta = spec.gamma.quantize([1.5]), spec.output.quantize([0.75])
    out, back = run(norm, spec, x, g, gamma, beta)
    np.testing.assert_array_equal(out.y, np.full((1, 64), beta[0]))
    assert not out.channel.statistics.live[0]
    assert back.dgamma[0] == 0
    assert back.dx[0, 0] == spec.data.low
    assert back.dx[0, -1] == spec.data.high


@pytest.mark.parametrize("sigma", ["exact", "pow2"])
def test_a_deviation_held_by_its_floor_has_no_gradient(sigma):
    """σ is a constant there: dx is g less its mean, times the coefficient, and nothing else."""
    spec = fp.NormSpec(width=8, sigma=sigma)
    x = np.zeros((1, 64), dtype=np.int64)
    x[0, 5] = 1
    g = np.random.default_rng(3).integers(-4, 5, (1, 64))
    g[0, 5] = 12
    gamma, beta = spec.gamma.quantize(np.full(1, 0.125)), spec.output.quantize(np.zeros(1))
    channel = fp.l1_forward(x, gamma, beta, spec).channel
    assert not channel.statistics.live[0]
    back = fp.l1_backward(g, x, channel, spec)
    assert back.dgamma[0] != 0
    scale = float(channel.coefficient[0]) / 2.0 ** float(channel.shift[0] + spec.dx_shift)
    wanted = spec.data.saturate(np.round(scale * (g[0] - g[0].mean())))
    assert np.abs(back.dx[0] - wanted).max() <= 1


def test_power_of_two_sigma_is_within_half_an_octave():
    spec, x, g, gamma, beta = channels(8, 512)
    spec = fp.NormSpec(width=8, sigma="pow2")
    out, _ = run("l1", spec, x, g, gamma, beta)
    sigma = K * np.abs(x - x.mean(1, keepdims=True)).mean(1)
    r = out.channel.reciprocal
    log2 = np.log2(sigma * (r.mantissa * 2.0 ** -r.exponent.astype(float)).astype(float))
    assert np.abs(log2).max() < 0.503
    np.testing.assert_array_equal(out.channel.coefficient, 2 * gamma)


def test_stochastic_rounding_is_unbiased_repeatable_and_differs_by_stream():
    spec = fp.NormSpec(width=8)
    x = np.tile([[-40, 40, 11, -10]], (1, 4096))
    gamma, beta = spec.gamma.quantize([0.4]), spec.output.quantize([0.0])
    outs = [
        fp.l1_forward(x, gamma, beta, spec, rounding="stochastic", seed=1, stream=stream)
        for stream in (0, 0, 1)
    ]
    np.testing.assert_array_equal(outs[0].y, outs[1].y)
    assert (outs[0].y != outs[2].y).any()
    channel = outs[0].channel
    gain = int(channel.coefficient[0]) / 2 ** int(channel.shift[0])
    for phase in range(4):
        unrounded = gain * (x[0, phase] - x.mean())
        assert abs(outs[0].y[0, phase::4].mean() - unrounded) < 0.03


def test_running_statistics_and_evaluation_follow_float():
    spec, x, _, gamma, beta = channels(8, 1024)
    running = fp.Running.initial(16)
    mean, variance = np.zeros(16), np.ones(16)
    for step in range(30):
        batch = np.roll(x, step, axis=0)
        running = running.update(fp.l1_statistics(batch, spec))
        sigma = K * np.abs(batch - batch.mean(1, keepdims=True)).mean(1)
        mean += 0.1 * (batch.mean(1) - mean)
        variance += 0.1 * (sigma**2 * 1024 / 1023 - variance)
    assert np.abs(running.mean / 65536 - mean).max() < 2e-3
    assert np.abs(running.variance / 65536 / variance - 1).max() < 2e-3
    assert running.variance.max() < 2**31
    y = fp.evaluate(x, running, gamma, beta, spec)
    gain = spec.gamma.real(gamma) / np.sqrt(variance)
    real = gain[:, None] * (x - mean[:, None]) + spec.output.real(beta)[:, None]
    assert np.abs(y - np.clip(real * 16, -128, 127)).max() < 1.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 4))}, "x: expected integers, got float64"),
        ({"x": np.full((2, 4), 300)}, r"x: expected 8-bit values \(-128 to 127\), got 300 to 300"),
        ({"x": np.zeros(4, int)}, r"x: expected shape \(C, M\) with M >= 2.*got \(4,\)"),
        ({"gamma": np.array([1000, 0])}, "gamma: expected 8-bit values"),
        ({"guess": np.array([1000, 0])}, "guess: expected 8-bit values"),
        ({"rounding": "up"}, "expected rounding 'nearest' or 'stochastic', got 'up'"),
    ],
)
def test_forward_errors(change, message):
    arguments = {
        "x": np.zeros((2, 4), int),
        "gamma": np.array([64, 64]),
        "beta": np.array([0, 0]),
        "spec": fp.NormSpec(width=8),
    }
    with pytest.raises((TypeError, ValueError), match=message):
        fp.l1_forward(**(arguments | change))


def test_backward_errors():
    spec, x, g, gamma, beta = channels(8, 64)
    out, _ = run("l1", spec, x, g, gamma, beta)
    with pytest.raises(TypeError, match="expected the state of l2_forward"):
        fp.l2_backward(g, x, out.channel, spec)
    other = fp.l2_forward(x, gamma, beta, spec)
    with pytest.raises(TypeError, match="expected the state of l1_forward"):
        fp.l1_backward(g, x, other.channel, spec)
    with pytest.raises(ValueError, match=r"g: expected the shape of x, \(16, 64\)"):
        fp.l1_backward(g[:, :32], x, out.channel, spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 3}, "expected a width of 4 to 16 bits, got 3"),
        ({"sigma": "log"}, "expected sigma 'exact' or 'pow2'"),
        ({"coefficient_bits": 40}, "expected coefficient_bits of 8 to 24, got 40"),
        ({"floor_log2": -4}, "y: expected a shift of at least 1"),
        ({"dx_fraction": 9}, "dx: expected a shift of at least 1"),
    ],
)
def test_spec_errors(options, message):
    with pytest.raises(ValueError, match=message):
        fp.NormSpec(**options)


def test_count_errors():
    with pytest.raises(ValueError, match="expected at least 2 elements"):
        fp.widths(fp.NormSpec(), 1)
    statistics = fp.l1_statistics(np.array([[1, 2, 3]]), fp.NormSpec())
    with pytest.raises(ValueError, match="momentum: expected 1 to 2048"):
        fp.Running.initial(1).update(statistics, momentum=0)


def test_random_bits_are_uniform_and_counter_based():
    bits = fp.random_bits(3, 5, np.arange(1 << 16))
    np.testing.assert_array_equal(bits[1000:1010], fp.random_bits(3, 5, np.arange(1000, 1010)))
    for bit in range(32):
        ones = ((bits >> np.uint32(bit)) & 1).mean()
        assert abs(ones - 0.5) < 0.01
    assert len(np.unique(bits)) > 65000
    assert (fp.random_bits(3, 6, np.arange(64)) != bits[:64]).mean() > 0.9
