"""Infinities and NaN: one rule, the same on every backend, instruction set, layout and dtype."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from l1bn.functional import l1_batch_norm
from l1bn.ops.native.library import FLOAT_NORM
from not_finite import (
    DTYPES,
    assert_a_bad_channel_is_nan_throughout,
    assert_an_infinite_output_passes_its_gradient_and_nan_none,
    assert_elements_without_gradient_add_nothing_in_evaluation,
    assert_running_statistics_stay_finite,
)

LAYOUTS = ["contiguous", "channels_last"]
NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in DTYPES}
#: A path of the native kernels each: planes, rows, few channels or elements, and few of all.
SHAPES = [(3, 4, 40, 40), (4, 20, 6, 5), (40, 20), (300, 5), (90, 4, 3, 3), (4, 3), (2, 3, 2, 2)]


@pytest.fixture
def isas(backend: str) -> Iterator[list[str]]:
    """The instruction sets of a backend; the one in use is put back."""
    if backend != "cpu":
        yield [""]
        return
    before = FLOAT_NORM.isa()
    yield FLOAT_NORM.isas()
    FLOAT_NORM.select(before)


def each(isas: list[str]) -> Iterator[str]:
    """Every instruction set, selected while it is the current one."""
    for isa in isas:
        if isa:
            FLOAT_NORM.select(isa)
        yield isa


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_a_bad_channel_is_nan_throughout_and_leaves_the_others(
    backend: str, isas: list[str], activation: str | None, dtype: torch.dtype, layout: str
) -> None:
    for _ in each(isas):
        for i, shape in enumerate(SHAPES):
            assert_a_bad_channel_is_nan_throughout(
                backend, shape, dtype, layout, activation, with_residual=bool(i % 2)
            )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_an_infinite_output_passes_its_gradient_and_nan_none(
    backend: str, isas: list[str], activation: str, dtype: torch.dtype, layout: str
) -> None:
    for _ in each(isas):
        for shape in SHAPES:
            assert_an_infinite_output_passes_its_gradient_and_nan_none(
                backend, shape, dtype, layout, activation
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
@pytest.mark.parametrize("buffers", DTYPES, ids=NAMES.get)
def test_running_statistics_stay_finite_in_their_own_dtype(
    backend: str, isas: list[str], buffers: torch.dtype, dtype: torch.dtype
) -> None:
    for _ in each(isas):
        assert_running_statistics_stay_finite(backend, dtype, buffers)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_elements_without_gradient_add_nothing_in_evaluation(
    backend: str, isas: list[str], activation: str, dtype: torch.dtype, layout: str
) -> None:
    if backend == "eager":
        pytest.skip("evaluation that trains is PyTorch's own operations there")
    for _ in each(isas):
        for shape in SHAPES:
            assert_elements_without_gradient_add_nothing_in_evaluation(
                backend, shape, dtype, layout, activation
            )


def _kinds(
    shape: tuple[int, ...], dtype: torch.dtype, activation: str | None, training: bool, seed: int
) -> list[torch.Tensor]:
    """0 where finite, the sign of an infinity, 2 where no number: of y and every gradient."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> torch.Tensor:
        v = torch.randn(shape, generator=generator)
        places = torch.randint(v.numel(), (count,), generator=generator)
        values = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 0.0])
        v.view(-1)[places] = values[torch.randint(len(values), (count,), generator=generator)]
        return v.to(dtype)

    x, grad = draw(2).requires_grad_(), draw(1)
    channels = shape[1]
    wide = torch.promote_types(dtype, torch.float32)
    mean, var = torch.zeros(channels, dtype=wide), torch.ones(channels, dtype=wide)
    drawn = (torch.randn(channels, generator=generator).to(wide) for _ in range(2))
    weight, bias = (v.requires_grad_() for v in drawn)
    y = l1_batch_norm(
        x, mean, var, weight, bias, training,
        activation=activation, backend="cpu",
    )  # fmt: skip
    found = [y.detach(), *torch.autograd.grad(y, (x, weight, bias), grad)]
    ends = {"nan": 2, "posinf": 1, "neginf": -1}
    return [torch.where(v.isfinite(), 0, v.float().nan_to_num(**ends)) for v in found]


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_instruction_sets_agree_on_what_is_not_finite(
    activation: str | None, dtype: torch.dtype
) -> None:
    before, isas = FLOAT_NORM.isa(), FLOAT_NORM.isas()
    if len(isas) < 2:
        pytest.skip("one instruction set only")
    try:
        for i, shape in enumerate(SHAPES * 8):
            of = []
            for isa in isas:
                FLOAT_NORM.select(isa)
                of.append(_kinds(shape, dtype, activation, bool(i % 2), i))
            for isa, kinds in zip(isas[1:], of[1:], strict=True):
                for name, a, b in zip(("y", "dx", "dγ", "dβ"), of[0], kinds, strict=True):
                    assert torch.equal(a, b), (isas[0], isa, shape, i, name)
    finally:
        FLOAT_NORM.select(before)
