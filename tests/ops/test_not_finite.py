"""Infinities and NaN: one rule, the same on every backend, instruction set, layout and dtype."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from l1bn.ops.native.library import FLOAT_NORM
from not_finite import (
    DTYPES,
    assert_a_bad_channel_is_nan_throughout,
    assert_an_infinite_output_passes_its_gradient_and_nan_none,
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
