"""The GPU kernels on a GPU: what the interpreter cannot show. Skipped where there is none."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import judge
from judge import Case, Result, assert_close, assert_judged, make_case
from l1bn.functional import l1_batch_norm
from l1bn.ops.registry import registry

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

SHAPES = [
    (2, 1),
    (256, 1000),
    (5, 4, 9),
    (3, 67, 13, 5),
    (64, 64, 56, 56),
    (16, 512, 7, 7),
    (2, 3, 300, 301),
    (2, 5, 3, 4, 5),
]


def _to_gpu(case: Case) -> Case:
    tensors = {
        f.name: value.cuda()
        for f in dataclasses.fields(case)
        if isinstance(value := getattr(case, f.name), torch.Tensor)
    }
    return dataclasses.replace(case, **tensors)


@pytest.fixture(autouse=True)
def _run_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = judge.run

    def run(case: Case, backend: str) -> Result:
        case = _to_gpu(case)
        for _ in range(2):  # the second time knows from the first what may be kept
            torch.cuda.synchronize()
            found = plain(case, backend)
        return {name: value.cpu() for name, value in found.items()}

    monkeypatch.setattr(judge, "run", run)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("activation", "residual"), [(None, False), ("relu", True)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_shapes(
    layout: str, activation: str | None, residual: bool, shape: tuple, dtype: torch.dtype
) -> None:
    assert_judged(
        make_case(shape, dtype, activation=activation, residual=residual, layout=layout), "triton"
    )


def _step(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, ...]:
    y = l1_batch_norm(x, None, None, weight, bias, True, activation="relu", backend="triton")
    return torch.autograd.grad(y.sum(), (x, weight, bias))


def _leaves() -> list[torch.Tensor]:
    case = _to_gpu(make_case((16, 32, 28, 28), activation="relu"))
    return [case.leaves()[name] for name in ("x", "weight", "bias")]


def test_the_same_input_gives_the_same_bits() -> None:
    leaves = _leaves()
    _step(*leaves)
    torch.cuda.synchronize()
    first = _step(*leaves)
    for _ in range(100):
        assert all(torch.equal(a, b) for a, b in zip(first, _step(*leaves), strict=True))


def test_a_step_does_not_wait_for_the_device() -> None:
    leaves = _leaves()
    _step(*leaves)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _step(*leaves)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_can_be_recorded_as_a_graph() -> None:
    leaves = _leaves()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            expected = _step(*leaves)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = _step(*leaves)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(expected, recorded, strict=True))


def test_a_compiled_step_calls_the_kernels() -> None:
    x, weight, bias = leaves = _leaves()
    counter = CompileCounterWithBackend("inductor")

    @torch.compile(fullgraph=True, backend=counter)
    def call(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return l1_batch_norm(x, None, None, weight, bias, True, activation="relu")

    expected = _step(*leaves)
    for _ in range(3):  # the first one saves the input, a later one the output
        found = torch.autograd.grad(call(x, weight, bias).sum(), leaves)
        torch.cuda.synchronize()
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, "cancelling")
    (graph,) = counter.graphs
    assert "l1bn.triton_forward" in graph.code


def test_auto_means_triton_on_a_gpu() -> None:
    x = torch.randn(4, 3, 5, 5, device="cuda")
    assert registry.resolve("auto", x, None, None, None).name == "triton"
