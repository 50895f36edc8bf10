"""The native integer kernels equal the integer judge, bit for bit."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l1bn import fixed_point as fp
from l1bn.fixed_point import (
    Master,
    SgdStep,
    add_scaled,
    memory_order,
    norm_layer_backward,
    norm_layer_forward,
    rescale,
    sgd_step,
)
from l1bn.fixed_point.formats import Noise
from l1bn.fixed_point.norm.layer import activate
from l1bn.fixed_point.norm.normalize import scale
from l1bn.ops.int8 import elements
from l1bn.ops.int8 import norm as native

if reason := native.available():
    pytest.skip(reason, allow_module_level=True)

STOCHASTIC = Noise(seed=7, stream=123456789)
SPEC = fp.NormSpec(width=8)
#: Channel counts below, at, beside and above the vectors' lengths; pixels from two up.
SHAPES = [
    (2, 1),
    (2, 16),
    (3, 5),
    (9, 10),
    (1, 1, 1, 2),
    (2, 3, 5, 7),
    (3, 16, 9, 11),
    (2, 17, 4, 4),
    (2, 32, 7, 5),
    (1, 64, 13, 3),
    (2, 100, 3, 3),
    (1, 128, 6, 6),
]


@pytest.fixture(params=native.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    native.select(request.param)
    yield request.param
    native.select(before)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def rows(array: np.ndarray, dtype: torch.dtype = torch.int8) -> torch.Tensor:
    """A tensor with channels last in memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(dtype)
    last = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
    return tensor.contiguous(memory_format=last)


def channels_first(array: np.ndarray) -> np.ndarray:
    """(C, M), as the judge takes it."""
    return np.moveaxis(array, 1, 0).reshape(array.shape[1], -1).astype(np.int64)


def back(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Undo `channels_first`."""
    return np.moveaxis(array.reshape(shape[1], shape[0], *shape[2:]), 0, 1)


def equal(tensor: torch.Tensor, array: np.ndarray) -> None:
    np.testing.assert_array_equal(tensor.numpy().astype(object), np.asarray(array).astype(object))


def data(rng: np.random.Generator, shape: tuple[int, ...], kind: str = "normal") -> np.ndarray:
    """Eight-bit numbers: usual, extreme, or with constant and nearly constant channels."""
    if kind == "extreme":
        return rng.choice([-128, 127], shape)
    x = np.clip(np.round(rng.normal(rng.normal(0, 20), 30, shape)), -128, 127).astype(np.int64)
    if kind == "constant":
        x[:, ::2] = -128
        x[:1, 1::4] = 5
        x[1:, 1::4] = 6
    return x


def parameters(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    gamma, beta = rng.integers(-128, 128, count), rng.integers(-128, 128, count)
    gamma[::3] = 0
    return gamma, beta


class Case:
    """One layer with its data, computed by the judge and by the kernels."""

    def __init__(self, shape, kind="normal", residual=False, relu=True, spec=SPEC, seed=0):
        rng = np.random.default_rng(seed)
        self.shape, self.relu, self.spec = shape, relu, spec
        self.x, self.g = data(rng, shape, kind), data(rng, shape, kind)
        self.gamma, self.beta = parameters(rng, shape[1])
        self.residual = data(rng, shape) if residual else None
        self.x_exponent = rng.integers(-12, 4, shape[1])
        first = None if self.residual is None else channels_first(self.residual)
        self.forward = norm_layer_forward(
            channels_first(self.x), self.gamma, self.beta, spec, first, relu
        )

    def run_forward(self) -> tuple[torch.Tensor, native.NativeState]:
        residual = None if self.residual is None else rows(self.residual)
        gamma, beta = torch.from_numpy(self.gamma).char(), torch.from_numpy(self.beta).char()
        return native.norm_forward(
            rows(self.x), gamma, beta, self.spec, residual=residual, relu=self.relu
        )

    def check_forward(self, y: torch.Tensor, state: native.NativeState) -> None:
        equal(y, back(self.forward.y, self.shape))
        channel = self.forward.channel
        s = channel.statistics
        assert isinstance(s, fp.L1Statistics)
        assert state.count == s.count
        equal(state.total, s.total)
        equal(state.above, s.above)
        equal(state.deviation, s.deviation)
        equal(state.threshold, s.threshold)
        equal(state.live, s.live.astype(int))
        equal(state.coefficient, channel.coefficient)
        equal(state.shift, channel.shift)
        equal(state.reciprocal, channel.reciprocal.exponent)

    def check_backward(self, noise=None, bits=8, g_exponent=-9, x_exponent=None):
        y, state = self.run_forward()
        exponents = self.x_exponent if x_exponent is None else x_exponent
        expected = norm_layer_backward(
            channels_first(self.g),
            channels_first(self.x),
            self.forward,
            self.spec,
            g_exponent,
            exponents,
            relu=self.relu,
            bits=bits,
            **rounding_of(noise),
            counter=channels_first(memory_order(self.shape)).astype(np.uint64),
        )
        for residual in (False, True):
            got = native.norm_backward(
                rows(self.g),
                rows(self.x),
                y if self.relu else None,
                state,
                spec=self.spec,
                g_exponent=g_exponent,
                x_exponent=torch.from_numpy(np.asarray(exponents)).int(),
                bits=bits,
                noise=noise,
                residual=residual,
            )
            assert got.exponent == expected.exponent
            equal(got.dx, back(expected.dx, self.shape))
            equal(got.dgamma, expected.dgamma)
            equal(got.dbeta, expected.dbeta)
            if residual:
                equal(got.dresidual, back(expected.dresidual, self.shape))
            else:
                assert got.dresidual is None


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["normal", "extreme", "constant"])
def test_forward_and_backward(isa, shape, kind):
    for residual, relu in ((True, True), (False, True), (False, False), (True, False)):
        case = Case(shape, kind, residual, relu)
        case.check_forward(*case.run_forward())
        case.check_backward()
        case.check_backward(STOCHASTIC, bits=5)


@pytest.mark.parametrize(
    "spec",
    [
        fp.NormSpec(8, sigma="pow2"),
        fp.NormSpec(8, coefficient_bits=14),
        fp.NormSpec(8, y_fraction=3, gamma_fraction=5, floor_log2=1),
        fp.NormSpec(8, coefficient_bits=12, floor_log2=-3, sigma="pow2"),
    ],
    ids=str,
)
def test_formats(isa, spec):
    for kind in ("normal", "constant"):
        case = Case((3, 20, 5, 5), kind, True, True, spec)
        case.check_forward(*case.run_forward())
        case.check_backward(STOCHASTIC)


def test_many_elements_of_one_sign(isa, threads):
    """2**18 elements at the ends of the range: sums beyond 32 bits, products beyond 64."""
    case = Case((16, 2, 128, 128), "extreme")
    case.x[:, 1] = -128
    case.x[0, 1, 0, 0] = 127
    case.g[:] = -128
    case.g[:, 0] = case.x[:, 0]  # the largest covariance
    case.forward = norm_layer_forward(channels_first(case.x), case.gamma, case.beta, SPEC)
    case.check_forward(*case.run_forward())
    case.check_backward()


def test_threads_share_the_rows(isa, threads):
    for shape in ((8, 16, 33, 31), (5, 48, 21, 20)):
        case = Case(shape, residual=True)
        case.check_forward(*case.run_forward())
        case.check_backward(STOCHASTIC)


def test_zero_gradients(isa):
    case = Case((2, 16, 5, 5))
    case.g[:] = 0
    case.check_backward()
    case.g[:, 3] = 1  # one channel decides the exponent of all
    case.check_backward()
    case.check_backward(STOCHASTIC)


def test_exponents_far_apart_reach_the_largest_shift(isa):
    case = Case((2, 6, 5, 5), relu=False)
    for far in ([0, 5, -30, 60, 22, 21], [-20] * 6):
        case.check_backward(x_exponent=np.array(far))
        case.check_backward(STOCHASTIC, x_exponent=np.array(far))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, n) for n in (4, 40, 6, 6)]).filter(
        lambda s: s[0] * s[2] * s[3] > 1
    ),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["normal", "extreme", "constant"]),
    sigma=st.sampled_from(["exact", "pow2"]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    bits=st.integers(2, 8),
)
def test_any_layer(shape, seed, kind, sigma, flags, bits):
    residual, relu, stochastic = flags
    case = Case(shape, kind, residual, relu, fp.NormSpec(8, sigma=sigma), seed)
    case.check_forward(*case.run_forward())
    case.check_backward(Noise(seed, seed // 3) if stochastic else None, bits)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fused_forward(isa, shape):
    rng = np.random.default_rng(3)
    value = rng.integers(-(2**31), 2**31, shape) >> rng.integers(0, 25, shape)
    gamma, beta = (torch.from_numpy(p).char() for p in parameters(rng, shape[1]))
    residual = rows(data(rng, shape))
    each = rng.integers(0, 32, shape[1])
    for shift in (each, 13):
        broad = np.broadcast_to(shift, shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
        x = rescale(value, broad)
        given_shift = shift if isinstance(shift, int) else torch.from_numpy(shift).int()
        accumulators = rows(value, torch.int32)
        got_x, y, state = native.norm_forward_fused(
            accumulators, given_shift, gamma, beta, SPEC, residual=residual
        )
        equal(got_x, x)
        expected, expected_state = native.norm_forward(
            rows(x), gamma, beta, SPEC, residual=residual
        )
        assert torch.equal(y, expected)
        assert torch.equal(state.wide, expected_state.wide)
        assert torch.equal(state.narrow, expected_state.narrow)


@pytest.mark.parametrize("relu", [True, False])
def test_evaluation(isa, relu):
    rng = np.random.default_rng(5)
    x, residual = data(rng, (3, 21, 4, 5)), data(rng, (3, 21, 4, 5))
    statistics = fp.l1_statistics(channels_first(data(rng, (3, 21, 4, 5))), SPEC)
    channel, offset = fp.fold(statistics, *parameters(rng, 21), SPEC)
    y = scale(channels_first(x), channel.coefficient, offset, channel.shift)
    scalars = [
        torch.from_numpy(a.astype(np.int64)).int()
        for a in (channel.coefficient, offset, channel.shift)
    ]
    y = SPEC.output.saturate(y)
    bare = activate(y, None, relu, SPEC)
    equal(native.norm_apply(rows(x), *scalars, relu=relu), back(bare, x.shape))
    got = native.norm_apply(rows(x), *scalars, residual=rows(residual), relu=relu)
    equal(got, back(activate(y, channels_first(residual), relu, SPEC), x.shape))


def rounding_of(noise: Noise | None) -> dict:
    if noise is None:
        return {"rounding": "nearest"}
    return {"rounding": "stochastic", "seed": noise.seed, "stream": noise.stream}


@pytest.mark.parametrize("noise", [None, STOCHASTIC], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rescale(isa, shape, noise):
    rng = np.random.default_rng(1)
    value = rng.integers(-(2**31), 2**31, shape) >> rng.integers(0, 31, shape)
    value.reshape(-1)[:2] = -(2**31), 2**31 - 1
    tensor = rows(value, torch.int32)
    assert elements.peak(tensor) == np.abs(value).max()
    for shift in range(32):
        expected = rescale(value, shift, 8, **rounding_of(noise))
        equal(elements.rescale(tensor, shift, 8, noise), expected)
    each = rng.integers(0, 32, shape[1])
    broad = each.reshape(1, -1, *[1] * (len(shape) - 2))
    for bits in (2, 4, 8):
        expected = rescale(value, broad, bits, **rounding_of(noise))
        got = elements.rescale(tensor, torch.from_numpy(each).int(), bits, noise)
        equal(got, expected)


def test_peak_of_zeros_and_of_nothing():
    assert elements.peak(torch.zeros((3, 5), dtype=torch.int32)) == 0
    assert elements.peak(torch.zeros((0, 5), dtype=torch.int32)) == 0


def check_sum(shape, gap, noise):
    rng = np.random.default_rng(2)
    a, b = rng.integers(-128, 128, shape), rng.integers(-128, 128, shape)
    a.reshape(-1)[0] = b.reshape(-1)[0] = -128
    expected, exponent = add_scaled(a, 3, b, 3 + gap, 7, **rounding_of(noise))
    got, got_exponent = elements.add_scaled(rows(a), 3, rows(b), 3 + gap, 7, noise)
    assert got_exponent == exponent
    equal(got, expected)


@pytest.mark.parametrize("noise", [None, STOCHASTIC], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 17, 8, 9)], ids=str)
def test_add_scaled(isa, shape, noise):
    for gap in (-60, -32, -17, -16, -15, -3, 0, 1, 16, 18, 40):
        check_sum(shape, gap, noise)


def test_sum_of_zeros():
    zeros = torch.zeros((2, 5), dtype=torch.int8)
    expected = add_scaled(zeros.numpy(), -3, zeros.numpy(), 2)
    got = elements.add_scaled(zeros, -3, zeros, 2)
    equal(got[0], expected[0])
    assert got[1] == expected[1]


def check_steps(shape, dtype, noise, bits, exponent, nesterov, size):
    """Three steps of weights of an exponent, with gradients of exponent ``size``."""
    rng = np.random.default_rng(4)
    high = (1 << (bits - 1)) - 1
    top = 127 if dtype == torch.int8 else 100_000
    gradient = rng.integers(-top, top + 1, shape)
    step = SgdStep.quantize(0.1, 0.9, 5e-4, nesterov)
    start, speed = (rng.integers(-high, high + 1, shape) for _ in range(2))
    master = Master(start, exponent, speed, -20, bits)
    weight, momentum = (rows(a, torch.int16) for a in (start, speed))
    at = master.momentum_exponent
    for i in range(3):
        now = None if noise is None else noise._replace(stream=noise.stream + 2 * i)
        master = sgd_step(master, gradient, size, step, **rounding_of(now))
        at = elements.sgd_step(
            weight,
            momentum,
            rows(gradient, dtype),
            step,
            exponent=exponent,
            momentum_exponent=at,
            gradient_exponent=size,
            bits=bits,
            noise=now,
        )
        assert at == master.momentum_exponent
        equal(weight, master.weight)
        equal(momentum, master.momentum)


@pytest.mark.parametrize("noise", [None, STOCHASTIC], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("shape", [(13,), (10, 64), (16, 5, 3, 3)], ids=str)
def test_sgd(isa, shape, dtype, noise):
    for bits, exponent, nesterov, size in (
        (16, -15, True, -6),
        (16, -14, False, -12),
        (12, -9, True, 3),
        (8, -4, True, -40),
        (16, -48, True, -31),
        (16, 14, False, -32),
        (16, -16, True, 30),
    ):
        check_steps(shape, dtype, noise, bits, exponent, nesterov, size)


def test_threads_share_the_elements(isa, threads):
    check_sum((4, 64, 31, 30), -3, STOCHASTIC)
    check_steps((64, 128, 3, 3), torch.int32, STOCHASTIC, 16, -15, True, -12)
    value = np.random.default_rng(8).integers(-(2**31), 2**31, (5, 48, 21, 20))
    tensor = rows(value, torch.int32)
    expected = rescale(value, 24, **rounding_of(STOCHASTIC))
    equal(elements.rescale(tensor, 24, noise=STOCHASTIC), expected)
    for place in (0, -1):
        tensor[place, 0, 0, 0] = -(2**31)
        assert elements.peak(tensor) == 2**31
        tensor[place, 0, 0, 0] = 0


def test_step_of_zeros_keeps_zero(isa):
    weight = torch.zeros(20, dtype=torch.int16)
    momentum, gradient = torch.zeros_like(weight), torch.zeros_like(weight).char()
    step = SgdStep.quantize(0.1)
    exponent = elements.sgd_step(
        weight,
        momentum,
        gradient,
        step,
        exponent=-15,
        momentum_exponent=-25,
        gradient_exponent=-9,
        noise=STOCHASTIC,
    )
    assert exponent == -32
    assert not weight.any()
    assert not momentum.any()


IMAGE = torch.zeros((2, 4, 3, 3), dtype=torch.int8).contiguous(memory_format=torch.channels_last)
WIDE = IMAGE.int()
CHANNEL = torch.ones(4, dtype=torch.int8)


def _backward(**changes):
    _, state = native.norm_forward(IMAGE, CHANNEL, CHANNEL, SPEC)
    arguments = {"g": IMAGE, "x": IMAGE, "y": None, "state": state, "spec": SPEC}
    native.norm_backward(**{**arguments, "g_exponent": 0, "x_exponent": 0, **changes})


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (TypeError, "x: expected a tensor of torch.int8, got torch.float32",
         lambda: native.norm_forward(IMAGE.float(), CHANNEL, CHANNEL, SPEC)),
        (ValueError, "x: expected a tensor on the cpu, got meta",
         lambda: native.norm_forward(IMAGE.to("meta"), CHANNEL, CHANNEL, SPEC)),
        (ValueError, "x: expected (N, C, H, W) or (N, C), got (4,)",
         lambda: native.norm_forward(CHANNEL, CHANNEL, CHANNEL, SPEC)),
        (ValueError, "x: expected (N, C, H, W) in torch.channels_last",
         lambda: native.norm_forward(IMAGE.contiguous(), CHANNEL, CHANNEL, SPEC)),
        (ValueError, "expected more than 1 value per channel when training, got (1, 4)",
         lambda: native.norm_forward(CHANNEL[None], CHANNEL, CHANNEL, SPEC)),
        (ValueError, "gamma: expected a contiguous (4,), got (3,)",
         lambda: native.norm_forward(IMAGE, CHANNEL[:3], CHANNEL, SPEC)),
        (ValueError, "residual: expected shape (2, 4, 3, 3), got (1, 4, 3, 3)",
         lambda: native.norm_forward(IMAGE, CHANNEL, CHANNEL, SPEC, residual=IMAGE[:1])),
        (ValueError, "spec: expected a width of at most 8 bits, got 12",
         lambda: native.norm_forward(IMAGE, CHANNEL, CHANNEL, fp.NormSpec(12))),
        (ValueError, "fit the 32-bit element path",
         lambda: native.norm_forward(IMAGE, CHANNEL, 99 * CHANNEL,
                                     fp.NormSpec(8, coefficient_bits=24, floor_log2=8))),
        (ValueError, "shift: expected 0 to 31, got 32 to 32", lambda: elements.rescale(WIDE, 32)),
        (ValueError, "bits: expected 2 to 8, got 9", lambda: elements.rescale(WIDE, 3, 9)),
        (ValueError, "state: expected that of 9 elements in 4 channels, got one of 18 in 4",
         lambda: _backward(x=IMAGE[:1], g=IMAGE[:1])),
        (TypeError, "x_exponent: expected a tensor of torch.int32, got torch.int8",
         lambda: _backward(x_exponent=CHANNEL)),
        (ValueError, "b: expected shape (2, 4, 3, 3), got (4,)",
         lambda: elements.add_scaled(IMAGE, 0, CHANNEL, 0)),
        (ValueError, "expected one of", lambda: native.select("mmx")),
    ],
)  # fmt: skip
def test_errors(error, text, call):
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_sgd_refuses_an_exponent_without_a_shift():
    weight = torch.zeros(4, dtype=torch.int16)
    with pytest.raises(ValueError, match="exponent: expected -48 to 14, got 15"):
        elements.sgd_step(
            weight,
            weight.clone(),
            weight.char(),
            SgdStep.quantize(0.1),
            exponent=15,
            momentum_exponent=0,
            gradient_exponent=0,
        )
