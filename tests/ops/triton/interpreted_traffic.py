"""Bytes moved, counted in Triton's interpreter; `test_interpreter.py` runs this in its process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from triton.runtime import interpreter

from benchmarks.gpu import predicted, tables
from benchmarks.gpu.traffic import Case, Launch, bytes_of, launches_of, recorded, saved
from judge import make_case
from l1bn.activation import Activation, keeps_output
from l1bn.doctor.warm import Layer, compile_for
from l1bn.ops.records import Call
from l1bn.ops.triton import launch, plan
from l1bn.ops.triton.pair import launch as pair_launch
from pairs import make


class Traffic:
    """Bytes that kernels load and store, counted where the interpreter does it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        builder = type(interpreter.interpreter_builder)
        for name, values in (("create_masked_load", None), ("create_masked_store", 1)):
            monkeypatch.setattr(builder, name, self._counting(getattr(builder, name), values))

    def _counting(self, method: Any, position: int | None) -> Any:
        def counted(builder: Any, ptrs: Any, *rest: Any) -> Any:
            mask = rest[0] if position is None else rest[position]
            size = ptrs.get_element_ty().primitive_bitwidth // 8
            self.bytes += int(mask.data.sum()) * max(size, 1)
            return method(builder, ptrs, *rest)

        return counted


@pytest.fixture(params=["one launch", "several launches"])
def launches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both schedules, on shapes small enough for the interpreter."""
    several = request.param == "several launches"
    monkeypatch.setattr(plan, "SINGLE", 8 if several else 1 << 20)
    plan._plan.cache_clear()
    yield request.param
    plan._plan.cache_clear()


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Launch, int]]]:
    """Collect launches with the bytes that each of them moves."""
    traffic = Traffic(monkeypatch)
    found: list[tuple[Launch, int]] = []

    def run(one: Launch, start: Callable[[], None]) -> None:
        before = traffic.bytes
        start()
        found.append((one, traffic.bytes - before))

    with recorded(run):
        yield found


def counted(case: tuple, monkeypatch: pytest.MonkeyPatch, keep_x: bool) -> list[tuple[Launch, int]]:
    """The launches of a training step of a layer, with the bytes that each of them moved."""
    layout, activation, residual = case
    made = make_case((4, 8, 32, 64), torch.bfloat16, activation=activation, residual=residual,
                     layout=layout)  # fmt: skip
    call = Call(made.weight, made.bias, activation, 1e-5)
    with counting(monkeypatch) as found:
        worst = None if keep_x else torch.zeros(1, dtype=torch.int32)
        _, kept = launch.forward(made.x, made.residual, call, None, not keep_x, worst)
        kept = saved(kept, activation, keep_x)
        launch.backward(made.grad, kept, call, (True, True, True, residual))
    return found


@pytest.mark.parametrize("keep_x", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("activation", "residual"), [("relu", False), ("relu", True), ("silu", True)]
)
def test_every_kernel_moves_the_bytes_that_are_predicted(
    launches: str,
    monkeypatch: pytest.MonkeyPatch,
    activation: Activation,
    residual: bool,
    layout: str,
    keep_x: bool,
) -> None:
    if not keep_x and not keeps_output(activation, torch.bfloat16):
        pytest.skip("x is kept there")
    found = counted((layout, activation, residual), monkeypatch, keep_x)
    assert len(found) == (2 if launches == "one launch" else 5)
    for one, moved in found:
        assert moved == pytest.approx(bytes_of(one), rel=0.02), one.kernel


@pytest.mark.parametrize("keep_x", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_two_branches_move_the_bytes_that_are_predicted(
    launches: str, monkeypatch: pytest.MonkeyPatch, layout: str, keep_x: bool
) -> None:
    first, second = make((4, 8, 32, 64), torch.bfloat16, (layout, layout))
    calls = Call(first.weight, first.bias, "relu", 1e-5), Call(second.weight, second.bias, None, 1)
    with counting(monkeypatch) as found:
        worst = None if keep_x else torch.zeros(1, dtype=torch.int32)
        _, kept = pair_launch.forward(
            first.x, second.x, calls, (None, None), keep_bits=True, worst=worst
        )
        kept = kept._replace(a=kept.a if keep_x else None)
        pair_launch.backward(first.grad, kept, calls, (True,) * 6)
    assert len(found) == (2 if launches == "one launch" else 5)
    for one, moved in found:
        assert moved == pytest.approx(bytes_of(one), rel=0.02), one.kernel


def test_two_branches_in_one_call_move_fewer_bytes() -> None:
    shape, dtype = (64, 256, 56, 56), torch.bfloat16
    joined, first, second = (
        sum(map(bytes_of, itertools.chain(*launches_of(case, keep_x))))
        for case, keep_x in (
            (Case(shape, dtype, True, "relu", False, joined=True), False),
            (Case(shape, dtype, True, "relu", True), False),
            (Case(shape, dtype, True, None, False), True),
        )
    )
    assert joined < 0.8 * (first + second)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 4), (64, 64, 112, 112), (256, 2048, 7, 7), (9, 5, 1, 1)]
)
def test_at_most_three_launches_each_way(shape: tuple[int, ...], last: bool) -> None:
    kinds = ("relu", False, False), ("relu", True, False), ("gelu", True, False)
    for activation, keep_x, joined in (*kinds, ("relu", False, True), ("relu6", True, True)):
        case = Case(shape, torch.bfloat16, last, activation, not joined, joined)
        forward, backward = launches_of(case, keep_x)
        assert 1 <= len(forward) <= 3
        assert 1 <= len(backward) <= 3


@pytest.mark.parametrize(
    ("shape", "last"), [((2, 3, 4, 4), True), ((64, 8, 16, 16), False), ((32, 8, 8, 8), True)]
)
def test_a_small_layer_is_one_launch_each_way(shape: tuple[int, ...], last: bool) -> None:
    forward, backward = launches_of(Case(shape, torch.bfloat16, last, "relu", True), False)
    assert len(forward) == len(backward) == 1


def test_what_was_predicted_is_what_the_launches_move() -> None:
    assert [{k: str(v) for k, v in row.items()} for row in predicted.rows()] == tables.predictions()


def test_warming_up_trains_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SINGLE", 8)
    monkeypatch.setattr(plan, "TILE", 64)
    plan._plan.cache_clear()
    last = Layer((2, 8, 4, 4), torch.bfloat16, torch.channels_last, "relu", residual=True)
    with recorded(lambda _, start: start()) as found:
        compile_for([last], "cpu")
    plan._plan.cache_clear()
    step = [
        "sum_kernel",
        "deviation_kernel",
        "normalize_kernel",
        "reduce_kernel",
        "gradient_kernel",
    ]
    assert [one.kernel for one in found] == 2 * step
    assert all(found[i].arguments["residual"] is not None for i in (2, 7))
