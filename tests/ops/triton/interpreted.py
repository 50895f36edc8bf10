"""The GPU kernels in Triton's interpreter; `test_interpreter.py` runs this in its own process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from judge import Case, assert_close, assert_judged, error, judge, make_case, run
from l1bn.activation import Activation
from l1bn.functional import l1_batch_norm
from l1bn.ops.records import Call
from l1bn.ops.recovery import LIMIT, Recovery
from l1bn.ops.registry import registry
from l1bn.ops.triton import plan
from not_finite import (
    assert_a_bad_channel_is_nan_throughout,
    assert_an_infinite_output_passes_its_gradient_and_nan_none,
    assert_running_statistics_stay_finite,
)

TRITON = registry.get("triton")


@pytest.fixture(params=["one launch", "several launches"])
def launches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both schedules on shapes small enough for the interpreter."""
    if request.param == "several launches":
        monkeypatch.setattr(plan, "SINGLE", 8)
        monkeypatch.setattr(plan, "TILE", 128)
        monkeypatch.setattr(plan, "MOST_SPLITS", 2)
    plan._plan.cache_clear()
    yield
    plan._plan.cache_clear()


#: Shape, dtype, activation, residual, layout: every value of each meets every value of another.
CASES = [
    ((2, 1), torch.float32, "relu", False, "contiguous"),
    ((33, 7), torch.bfloat16, "relu6", True, "contiguous"),
    ((40, 70), torch.float64, None, True, "strided"),
    ((5, 4, 9), torch.float16, "relu", True, "transposed"),
    ((3, 5, 1, 1), torch.float32, None, False, "contiguous"),
    ((1, 3, 5, 7), torch.bfloat16, "relu", True, "channels_last"),
    ((2, 3, 8, 8), torch.float64, "relu6", False, "contiguous"),
    ((3, 9, 13, 5), torch.float32, "relu", True, "channels_last"),
    ((3, 9, 13, 5), torch.float16, None, True, "contiguous"),
    ((2, 70, 4, 5), torch.float32, "relu6", True, "channels_last"),
    ((2, 5, 3, 4, 5), torch.bfloat16, None, False, "channels_last"),
    ((2, 5, 3, 4, 5), torch.float32, "relu", False, "transposed"),
    ((4, 2, 30, 31), torch.float16, "relu6", False, "strided"),
    ((4, 2, 30, 31), torch.float32, "relu", True, "contiguous"),
]


BENT = [
    ("leaky_relu", 0.2), ("leaky_relu", -0.5), "elu", "silu", "hardswish", "hardsigmoid", "gelu",
    "gelu_tanh", "mish", "sigmoid", "tanh",
]  # fmt: skip


@pytest.mark.usefixtures("launches", "poisoned_allocations")
@pytest.mark.parametrize("activation", BENT, ids=str)
def test_activations_that_bend(activation: Activation) -> None:
    for dtype, residual, layout in [
        (torch.float32, True, "contiguous"),
        (torch.bfloat16, False, "channels_last"),
    ]:
        case = make_case((4, 3, 5, 6), dtype, activation=activation, residual=residual,
                         layout=layout)  # fmt: skip
        assert_judged(case, "triton")


@pytest.mark.usefixtures("launches", "poisoned_allocations")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes_dtypes_and_layouts(case: tuple) -> None:
    shape, dtype, activation, residual, layout = case
    assert_judged(
        make_case(shape, dtype, activation=activation, residual=residual, layout=layout), "triton"
    )


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", ["skewed", "far", "floored", "outlier", "no affine"])
def test_hard_data(kind: str, layout: str) -> None:
    case = make_case(
        (4, 3, 6, 11), activation="relu", layout=layout, skewed=kind == "skewed",
        mean=1000.0 if kind == "far" else 0.3, affine=kind != "no affine",
    )  # fmt: skip
    if kind == "floored":
        case.x[:, 0] = 5.0
        case.x[:, 1] *= 1e-5
    if kind == "outlier":  # the first value, around which the sums are taken
        case.x[0, :, 0, 0] = 1e4
    assert_judged(case, "triton")


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("gamma", [0.0, -1e-6, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_gamma_gives_no_wrong_gradient(dtype: torch.dtype, gamma: float) -> None:
    case = make_case((6, 5, 4, 5), dtype, activation="relu", residual=True)
    assert case.weight is not None
    case.weight[::2] = gamma
    assert_judged(case, "triton")


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("momentum", [0.1, torch.tensor(0.25)])
def test_running_statistics_move_as_eager_moves_them(momentum: float | Tensor) -> None:
    case = make_case((4, 3, 6, 7), activation="relu")
    case.x[0, 1, 2, 3] = float("nan")
    moved = {}
    for backend in ("triton", "eager"):
        mean, var = torch.full((3,), 0.5), torch.full((3,), 2.0)
        l1_batch_norm(case.x, mean, var, case.weight, case.bias, True, momentum, backend=backend)
        moved[backend] = torch.stack([mean, var])
    assert moved["triton"][:, 1].tolist() == [0.5, 2.0]
    assert_close(moved["triton"], moved["eager"], "single")


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("activation", [None, "relu6"])
def test_a_bad_channel_is_nan_throughout(activation: str | None) -> None:
    assert_a_bad_channel_is_nan_throughout(
        "triton", (5, 3, 8), torch.float32, "contiguous", activation, activation is not None, False
    )


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_an_infinite_output_passes_its_gradient_and_nan_none(activation: str) -> None:
    assert_an_infinite_output_passes_its_gradient_and_nan_none(
        "triton", (4, 3, 8), torch.float32, "contiguous", activation
    )


@pytest.mark.parametrize(
    ("dtype", "buffers"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float32),
        (torch.float32, torch.float16),
    ],
)
def test_running_statistics_stay_finite(dtype: torch.dtype, buffers: torch.dtype) -> None:
    assert_running_statistics_stay_finite("triton", dtype, buffers)


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("activation", [None, "relu"])
def test_second_derivatives(activation: str | None) -> None:
    x, residual = torch.randn(2, 3, 2, 3, 2, dtype=torch.float64)
    weight, bias = torch.randn(2, 2, dtype=torch.float64)
    leaves = [v.clone().requires_grad_() for v in (x, weight, bias, residual)]

    def call(*leaves: Tensor) -> Tensor:
        x, weight, bias, residual = leaves
        return TRITON.train(x, residual, Call(weight, bias, activation, 1e-5))[0]

    assert gradcheck(call, leaves, fast_mode=True)
    assert gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_second_derivatives_reach_inputs_that_are_not_dense(activation: str | None) -> None:
    case = make_case((3, 2, 5), torch.float64, activation=activation, residual=True,
                     layout="strided")  # fmt: skip
    found = []
    for backend in ("triton", "eager"):
        given = [v.detach().requires_grad_() for v in (case.x, case.weight, case.bias)]
        assert case.residual is not None
        residual = case.residual.detach().requires_grad_()
        call = Call(given[1], given[2], activation, case.eps)
        y = registry.get(backend).train(given[0], residual, call)[0]
        first = torch.autograd.grad(y.pow(3).sum(), [*given, residual], create_graph=True)
        total = sum(v.square().sum() for v in first)
        found.append(torch.autograd.grad(total, [*given, residual]))
    for one, other in zip(*found, strict=True):
        assert_close(one, other, "double sums")


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_first_derivative_of_which_there_may_be_a_second_is_the_same(layout: str) -> None:
    case = make_case((3, 4, 5, 6), torch.float64, activation="relu", layout=layout)
    leaves = list(case.leaves().values())
    x, weight, bias = leaves
    y = TRITON.train(x, None, Call(weight, bias, "relu", case.eps))[0]
    node: Any = y.grad_fn
    assert node.saved_tensors[0] is None  # x is not kept
    plain = torch.autograd.grad(y, leaves, case.grad, retain_graph=True)
    again = torch.autograd.grad(y, leaves, case.grad, create_graph=True)
    assert_close([v.detach() for v in again], list(plain), "double")


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_batched_gradients(activation: str | None) -> None:
    case = make_case((4, 3, 5, 6), activation=activation, residual=True)
    leaves = list(case.leaves().values())

    def call(*leaves: Tensor) -> Tensor:
        x, weight, bias, residual = leaves
        return TRITON.train(x, residual, Call(weight, bias, activation, case.eps))[0]

    y = call(*leaves)
    grads = torch.randn(3, *y.shape)
    together = torch.autograd.grad(y, leaves, grads, is_grads_batched=True, retain_graph=True)
    mapped = torch.func.vmap(lambda g: torch.autograd.grad(y, leaves, g, retain_graph=True))(grads)
    apart = [torch.autograd.grad(y, leaves, g, retain_graph=True) for g in grads]
    for i, want in enumerate(zip(*apart, strict=True)):
        assert_close(together[i], torch.stack(want), "cancelling")
        assert_close(mapped[i], torch.stack(want), "cancelling")
    small = tuple(v[:2, :1, :2, :2] if v.dim() > 1 else v[:1] for v in map(torch.detach, leaves))
    vectorized = torch.autograd.functional.jacobian(call, small, vectorize=True)
    one_by_one = torch.autograd.functional.jacobian(call, small)
    assert_close(vectorized, one_by_one, "cancelling")


@pytest.mark.usefixtures("launches")
def test_the_same_input_gives_the_same_bits() -> None:
    case = make_case((3, 2, 9, 8), activation="relu", residual=True)
    first = run(case, "triton")
    for _ in range(2):
        again = run(case, "triton")
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_saved_tensors_may_come_back_in_another_order_of_memory() -> None:
    case = make_case((3, 5, 4, 6), activation="relu", residual=True, layout="channels_last")

    def unpack(saved: Tensor) -> Tensor:
        return saved.contiguous().clone()

    with torch.autograd.graph.saved_tensors_hooks(torch.clone, unpack):
        got = run(case, "triton")
    want = judge(case)
    assert max(error(got[name], want[name]) for name in want) < 1e-5


def test_with_an_activation_y_and_one_bit_per_element_are_kept() -> None:
    case = make_case((4, 8, 16, 16), activation="relu")
    sizes: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        sizes[saved.data_ptr()] = saved.numel() * saved.element_size()
        return saved

    leaves = case.leaves()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        call = Call(leaves["weight"], leaves["bias"], "relu", 1e-5)
        y, _, _ = TRITON.train(leaves["x"], None, call)
    elements = case.x.numel()
    assert leaves["x"].data_ptr() not in sizes
    assert sizes[y.data_ptr()] == 4 * elements
    assert sum(sizes.values()) < 4 * elements + elements / 8 + 600


def test_what_is_known_of_the_step_before_decides_what_is_kept() -> None:
    weight, other = torch.ones(3), torch.ones(3)
    limit = LIMIT[torch.float32]
    memory = Recovery()

    def step(ratio: float) -> bool:
        kept = memory.may_keep_output(weight, torch.float32)
        memory.note(weight, torch.tensor([ratio]).view(torch.int32))
        return kept

    assert not step(1.0)  # nothing known yet
    assert step(1.0)
    assert step(limit / 2)  # within the limit, beyond the margin
    assert not step(1.0)
    # A compiled graph has tensors of its own on the same memory.
    assert memory.may_keep_output(weight.detach(), torch.float32)
    assert not memory.may_keep_output(other, torch.float32)
    assert step(2 * limit)
    with pytest.warns(RuntimeWarning, match="inexact in that step"):
        assert not step(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert step(1.0)


def test_parameters_in_one_memory_are_told_apart_and_freed_ones_forgotten() -> None:
    memory, worst = Recovery(), torch.ones(1).view(torch.int32)
    first, second = torch.ones(6).split(3)
    memory.note(first, worst)
    assert memory.may_keep_output(first, torch.float32)
    assert not memory.may_keep_output(second, torch.float32)
    for _ in range(1000):
        memory.note(torch.ones(1), worst)
    assert memory.may_keep_output(first, torch.float32)
    assert len(memory._watched) < 600


def test_a_dtype_or_device_it_cannot_serve_is_refused() -> None:
    with pytest.raises(ValueError, match="it takes GPU tensors, got meta"):
        l1_batch_norm(torch.empty(2, 3, device="meta"), None, None, training=True, backend="triton")
    case = Case(torch.randn(4, 2), torch.randn(4, 2))
    assert_judged(case, "triton")
