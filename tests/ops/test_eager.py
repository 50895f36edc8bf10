"""The eager backend's blocks and what it keeps: one bit per element beside the output."""

from __future__ import annotations

import math

import pytest
import torch

from judge import assert_judged, make_case
from l1bn.ops.eager import passes
from l1bn.ops.eager.backend import BACKEND
from l1bn.ops.records import Call

SHAPES = [(5, 3, 4, 6), (1, 4, 7, 5), (9, 5), (3, 4, 11), (2, 3, 4, 3, 2)]


@pytest.mark.parametrize("elements", [1, 20, 150])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_small_blocks(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, layout: str, elements: int
) -> None:
    monkeypatch.setattr(passes, "_BLOCK", elements)
    for shape in SHAPES:
        for activation, residual in [(None, True), ("relu", False), ("relu6", True)]:
            case = make_case(shape, dtype, activation=activation, residual=residual, layout=layout)
            assert_judged(case, "eager")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_cover_a_tensor_once(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(passes, "_BLOCK", 7)
    seen = torch.zeros(shape)
    for block in passes._blocks(seen):
        seen[block] += 1
    assert (seen == 1).all()
    (whole,) = passes._blocks(torch.empty(shape, device="meta"))  # a launch each elsewhere
    assert seen[whole].shape == seen.shape


def test_threads_changed_between_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "_BLOCK", 50)
    case = make_case((6, 3, 5, 5), activation="relu")
    threads, found = torch.get_num_threads(), []
    try:
        for later in (1, 3):
            torch.set_num_threads(1)
            leaves = case.leaves()
            call = Call(leaves["weight"], leaves["bias"], "relu", 1e-5)
            y, _, _ = BACKEND.train(leaves["x"], None, call)
            torch.set_num_threads(later)
            y.backward(case.grad)
            found.append(leaves["x"].grad)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


@pytest.mark.parametrize("residual", [False, True])
def test_a_second_derivative_over_blocks(monkeypatch: pytest.MonkeyPatch, residual: bool) -> None:
    monkeypatch.setattr(passes, "_BLOCK", 10)
    case = make_case((3, 2, 3, 2), torch.float64, activation="relu", residual=residual)
    leaves = list(case.leaves().values())

    def call(*values: torch.Tensor) -> torch.Tensor:
        x, weight, bias, added = (*values, None)[:4]
        assert x is not None
        return BACKEND.train(x, added, Call(weight, bias, "relu", 1e-5))[0]

    assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.parametrize("gamma", [1.0, 0.0])
def test_bytes_kept(gamma: float) -> None:
    x = torch.randn(4, 24, 8, 8, requires_grad=True)
    weight = torch.ones(24)
    weight[3] = gamma
    kept: dict[int, int] = {}

    def pack(v: torch.Tensor) -> torch.Tensor:
        if v.numel() > 24:
            kept[v.untyped_storage().data_ptr()] = v.untyped_storage().nbytes()
        return v

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
        y = BACKEND.train(x, None, Call(weight, None, "relu", 1e-5))[0]
    assert y.requires_grad
    one = math.prod(x.shape)
    assert sum(kept.values()) == (4 * one + one // 8 if gamma else 8 * one)
