"""Two joined branches as operators of torch.compile, in Triton's interpreter.

`test_interpreter.py` runs this in its own process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from judge import assert_close, lay_out
from l1bn.functional import l1_batch_norm_pair
from l1bn.ops import spill
from l1bn.ops.triton import plan
from l1bn.ops.triton.pair import operators
from pairs import branches, leaves_of, make

#: Shape, dtype, activation, layouts of both.
CASES = [
    ((2, 1), torch.float32, "relu", ("contiguous", "contiguous")),
    ((33, 7), torch.bfloat16, "relu6", ("contiguous", "strided")),
    ((3, 9, 13, 5), torch.float32, "relu", ("channels_last", "contiguous")),
    ((3, 5, 1, 1), torch.float64, "relu", ("contiguous", "contiguous")),
    ((2, 5, 3, 4, 5), torch.float16, "relu6", ("contiguous", "channels_last")),
    ((4, 2, 8, 9), torch.float32, "relu", ("strided", "channels_last")),
]


@pytest.fixture(params=["one launch", "several launches"])
def launches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both schedules."""
    if request.param == "several launches":
        monkeypatch.setattr(plan, "SINGLE", 8)
        monkeypatch.setattr(plan, "TILE", 64)
    plan._plan.cache_clear()
    yield
    plan._plan.cache_clear()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def arguments(case: tuple) -> tuple[Any, ...]:
    shape, dtype, activation, layouts = case
    leaves = leaves_of(*make(shape, dtype, layouts))
    return *leaves, activation, 1e-5, 1e-4, True, True


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("case", [c for c in CASES if c[1].itemsize > 2], ids=str)
def test_opcheck(case: tuple) -> None:
    given = arguments(case)
    torch.library.opcheck(operators.forward, given)
    torch.library.opcheck(
        operators.forward, (*given[:-2], True, False), test_utils="test_faketensor"
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_compiler_expects_on_a_gpu_what_the_kernels_return(case: tuple) -> None:
    given = arguments(case)
    with torch.no_grad():
        real = operators.forward(*given)
    with FakeTensorMode(), torch.no_grad():
        fakes = [
            torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device="cuda")
            if isinstance(v, Tensor)
            else v
            for v in given
        ]
        fake = operators.forward(*fakes)
    for one, other in zip(real, fake, strict=True):
        assert other.device.type == "cuda"
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)


class Joined(nn.Module):
    """Where two branches of a residual block meet."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 1, bias=False) for _ in range(2))
        self.vectors = nn.ParameterList(torch.ones(4) for _ in range(4))
        for i in range(4):
            self.register_buffer(f"running{i}", torch.full((4,), float(i % 2)))

    def forward(self, x: Tensor) -> Tensor:
        a, b = (conv(x) for conv in self.convs)
        weight, bias, other_weight, other_bias = self.vectors
        leaves = [a, weight, bias, b, other_weight, other_bias]
        state = [getattr(self, f"running{i}") for i in range(4)]
        return l1_batch_norm_pair(*branches(leaves, state), "relu", backend="triton")


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_pair_calls_the_kernels_and_trains_alike() -> None:
    torch.manual_seed(0)
    plain, twin = Joined(), Joined()
    twin.load_state_dict(plain.state_dict())
    counter = CompileCounterWithBackend("aot_eager")
    made: Any = torch.compile(twin, fullgraph=True, backend=counter)
    for value in (1.0, 0.0):  # the same graph keeps the first input where it has to
        for model in (plain, twin):
            model.vectors[0].data[1:3] = value
        x = torch.randn(3, 4, 3, 5)
        one, other = plain(x), made(x)
        assert_close(other, one, "cancelling")
        weight = torch.randn(one.shape)
        (one * weight).sum().backward()
        (other * weight).sum().backward()
        for p, q in zip(plain.parameters(), twin.parameters(), strict=True):
            assert_close(q.grad, p.grad, "network")
        torch.testing.assert_close(dict(plain.state_dict()), dict(twin.state_dict()))
    assert counter.frame_count == 1
    (graph,) = counter.graphs
    called = [str(node.target) for node in graph.graph.nodes]
    assert called.count("l1bn.triton_pair_forward.default") == 1


@pytest.mark.usefixtures("launches", "poisoned_allocations")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_an_input_that_cannot_be_recovered_lies_behind_the_bits(layout: str) -> None:
    first, second = make((4, 6, 5, 5), torch.float32, (layout, layout))
    rows = layout == "channels_last"
    with torch.no_grad():
        for gamma in (1.0, 0.0):
            first.weight[2] = gamma
            vectors = first.weight, first.bias, second.weight, second.bias
            given = first.x, *vectors[:2], second.x, *vectors[2:]
            options = "relu", 1e-5, 1e-4
            y, statistics, bits, other_bits = operators.forward(*given, *options, True, True)
            lies = spill.behind(bits, y.numel(), y.dtype) is not None
            assert lies == (gamma == 0.0)
            assert bool(bits[-1]) == lies
            rest = statistics, *vectors, *options, rows, [True] * 6
            grad = lay_out(first.grad, layout)
            found = operators.backward(grad, None, second.x, y, bits, other_bits, *rest)
            direct = operators.backward(grad, first.x, second.x, y, bits, other_bits, *rest)
            for one, other in zip(found, direct, strict=True):
                assert_close(one, other, "single sums")
            if lies:
                with pytest.raises(RuntimeError, match="got a copy of them without the input"):
                    operators.backward(grad, None, second.x, y, bits.clone(), other_bits, *rest)
