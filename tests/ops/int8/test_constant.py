"""Both backends with constant statistics equal the integer judge, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l1bn import fixed_point as fp
from l1bn.fixed_point.formats import Noise
from l1bn.fixed_point.norm.constant import constant_layer_backward, constant_layer_forward
from l1bn.ops.int8 import norm as native
from l1bn.quantized.kernels import Kernels
from l1bn.quantized.kernels.eager import EagerKernels
from l1bn.quantized.kernels.eager_norm import tensor_of
from l1bn.quantized.kernels.interface import Constants
from l1bn.quantized.kernels.native import NativeKernels

if reason := native.available():
    pytest.skip(reason, allow_module_level=True)

SPEC = fp.NormSpec(width=8)
EAGER, NATIVE = EagerKernels(), NativeKernels()
BACKENDS: list[Kernels] = [EAGER, NATIVE]
SHAPES = [(1, 1), (1, 16), (3, 5), (1, 3, 1, 1), (2, 17, 4, 4), (1, 64, 13, 3), (4, 33, 40, 31)]


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


def tensor(array: np.ndarray) -> torch.Tensor:
    last = torch.channels_last if array.ndim == 4 else torch.contiguous_format
    return torch.from_numpy(array.astype(np.int8)).contiguous(memory_format=last)


def channels_first(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, 0).reshape(array.shape[1], -1).astype(np.int64)


def equal(found: torch.Tensor, wanted: np.ndarray) -> None:
    values = found.numpy()
    values = channels_first(values) if values.ndim in (2, 4) else values
    np.testing.assert_array_equal(values.astype(object), wanted.astype(object))


def check_layer(shape, seed, flags, bits=8, spec=SPEC, backends=BACKENDS):
    """Forward and backward of one layer, judge against backends."""
    extreme, residual, relu, stochastic = flags
    rng = np.random.default_rng(seed)
    channels = shape[1]
    draw = (lambda: rng.choice([-128, 127], shape)) if extreme else (
        lambda: np.clip(np.round(rng.normal(0, 40, shape)), -128, 127))  # fmt: skip
    x, g, added = draw(), draw(), draw() if residual else None
    gamma, beta = rng.integers(-128, 128, channels), rng.integers(-128, 128, channels)
    mean = rng.integers(-(200 << 16), 200 << 16, channels)
    variance = rng.integers(0, 1 << 31, channels) >> rng.integers(0, 31, channels)
    exponent, noise = rng.integers(-12, 4, channels), Noise(seed, seed // 3) if stochastic else None
    first = None if added is None else channels_first(added)
    out = constant_layer_forward(
        channels_first(x), fp.Running(mean, variance), gamma, beta, spec, first, relu
    )
    rounding = {"rounding": "nearest"} if noise is None else {
        "rounding": "stochastic", "seed": noise.seed, "stream": noise.stream}  # fmt: skip
    wanted = constant_layer_backward(
        channels_first(g),
        channels_first(x),
        out,
        spec,
        -9,
        exponent,
        relu=relu,
        bits=bits,
        **rounding,
        counter=channels_first(fp.memory_order(shape)).astype(np.uint64),
    )
    statistics = out.channel.statistics
    constants = Constants(
        statistics.count,
        tensor_of(statistics.total),
        tensor_of(statistics.deviation),
        tensor_of(out.channel.coefficient).int(),
        tensor_of(out.channel.shift).int(),
    )
    y = tensor(np.moveaxis(out.y.reshape(channels, shape[0], *shape[2:]), 0, 1)) if relu else None
    for kernels in backends:
        got = kernels.norm_backward_constant(
            tensor(g),
            tensor(x),
            y,
            constants,
            spec=spec,
            g_exponent=-9,
            x_exponent=torch.from_numpy(exponent).int(),
            bits=bits,
            noise=noise,
            residual=residual,
        )
        assert got.exponent == wanted.exponent
        equal(got.dx, wanted.dx)
        equal(got.dgamma, wanted.dgamma)
        equal(got.dbeta, wanted.dbeta)
        if residual:
            equal(got.dresidual, wanted.dresidual)


def check_layers(shape, kernels):
    for seed in range(3):
        check_layer(shape, seed, (False, True, True, False), backends=[kernels])
        check_layer(shape, seed, (True, False, False, True), bits=5, backends=[kernels])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_instruction_set(isa, threads, shape):
    check_layers(shape, NATIVE)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_eager(threads, shape):
    check_layers(shape, EAGER)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, n) for n in (4, 40, 6, 6)]),
    seed=st.integers(0, 2**32),
    flags=st.tuples(*[st.booleans()] * 4),
    bits=st.integers(2, 8),
    fraction=st.integers(0, 4),
)
def test_any_layer(shape, seed, flags, bits, fraction):
    check_layer(shape, seed, flags, bits, fp.NormSpec(8, y_fraction=fraction))


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (1, 16, 1, 1), (2, 17, 9, 11), (8, 33, 64, 31)])
def test_both_sides_of_a_threshold(isa, threads, shape):
    rng = np.random.default_rng(2)
    x = rng.integers(-128, 128, shape)
    for threshold in (rng.integers(-128, 129, shape[1]), np.full(shape[1], 128)):
        wanted = fp.sides(channels_first(x), threshold)
        for kernels in BACKENDS:
            found = kernels.norm_sides(tensor(x), torch.from_numpy(threshold).int())
            equal(found[0], wanted.total)
            equal(found[1], wanted.above)
            equal(found[2], wanted.high)


def test_sums_of_many_extremes(isa):
    """2**19 elements at one end: 16-bit lanes are folded before they overflow."""
    for value in (-128, 127):
        x = np.full((2, 2, 512, 512), value)
        threshold = torch.tensor([-128, 127], dtype=torch.int32)
        found = native.norm_sides(tensor(x), threshold)
        equal(found[0], np.full(2, value << 19))
        equal(found[1], np.array([1, value > 0]) << 19)
        equal(found[2], np.array([value, value if value > 0 else 0]) << 19)


def test_a_threshold_that_16_bits_do_not_hold_is_refused():
    x = torch.zeros(2, 3, dtype=torch.int8)
    with pytest.raises(ValueError, match="threshold: expected -128 to 128, got 0 to 40000"):
        native.norm_sides(x, torch.tensor([0, 1, 40000], dtype=torch.int32))
