"""The GPU kernels as operators of torch.compile; `test_interpreter.py` runs this in its process."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import l1bn
from judge import assert_close, make_case
from l1bn.activation import keeps_output
from l1bn.ops import spill
from l1bn.ops.operators import parted
from l1bn.ops.triton import operators, plan


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


#: Shape, dtype, activation, residual, layout.
CASES = [
    ((3, 5, 4, 4), torch.float32, None, True, "channels_last"),
    ((3, 5, 4, 4), torch.float32, "relu", True, "channels_last"),
    ((3, 5, 4, 4), torch.bfloat16, "relu6", False, "strided"),
    ((2, 9, 3, 5), torch.float32, "gelu", True, "contiguous"),
    ((6, 3, 7), torch.float64, ("leaky_relu", 0.2), False, "transposed"),
    ((4, 20), torch.float32, "relu", True, "contiguous"),
    ((4, 3, 1, 1), torch.float32, "relu", False, "contiguous"),
    ((2, 3, 2, 3, 3), torch.float16, None, False, "channels_last"),
]


def arguments(case: tuple) -> tuple[Any, ...]:
    shape, dtype, activation, residual, layout = case
    made = make_case(shape, dtype, activation=activation, residual=residual, layout=layout)
    leaves = made.leaves()
    recovers = not residual if activation is None else keeps_output(activation, dtype)
    given = leaves["x"], leaves["weight"], leaves["bias"], leaves.get("residual")
    return *given, *parted(activation), 1e-5, recovers


# γ's gradient from a y of 16 bits is another rounding than the one from x, which no compiler sees.
@pytest.mark.parametrize("case", [c for c in CASES if c[1].itemsize > 2], ids=str)
def test_opcheck(case: tuple) -> None:
    given = arguments(case)
    torch.library.opcheck(operators.forward, given)
    if given[-1]:  # and with x kept
        torch.library.opcheck(operators.forward, (*given[:-1], False), test_utils="test_faketensor")


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


class Net(nn.Module):
    """Norms with and without an activation and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = l1bn.L1BatchNormAct2d(4)
        self.conv = nn.Conv2d(4, 4, 1, bias=False)
        self.norm2 = l1bn.L1BatchNormAct2d(4, act_layer=nn.SiLU)
        self.norm3 = l1bn.L1BatchNorm2d(4)
        for layer in (self.norm1, self.norm2, self.norm3):
            layer.backend = "triton"

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        return self.norm3(self.norm2(self.conv(y), residual=y))


def test_a_compiled_network_calls_the_kernels_and_trains_alike() -> None:
    torch.manual_seed(0)
    plain = Net()
    twin = copy.deepcopy(plain)
    counter = CompileCounterWithBackend("aot_eager")
    made: Any = torch.compile(twin, fullgraph=True, backend=counter)
    for value in (1.0, 0.0):  # the same graph keeps x where it has to
        for model in (plain, twin):
            model.norm1.weight.data[1:3] = value
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
    assert called.count("l1bn.triton_forward.default") == 3


@pytest.fixture(params=["one launch", "several launches"])
def launches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both schedules."""
    if request.param == "several launches":
        monkeypatch.setattr(plan, "SINGLE", 8)
        monkeypatch.setattr(plan, "TILE", 64)
    plan._plan.cache_clear()
    yield
    plan._plan.cache_clear()


@pytest.mark.usefixtures("launches", "poisoned_allocations")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("activation", "added"), [("relu", False), ("elu", True)])
def test_an_input_that_cannot_be_recovered_lies_behind_the_bits(
    activation: str, added: bool, layout: str
) -> None:
    case = make_case((4, 6, 5, 5), activation=activation, residual=added, layout=layout)
    assert case.weight is not None
    options, rows = (activation, None, 1e-5), layout == "channels_last"
    with torch.no_grad():
        for gamma in (1.0, 0.0):
            case.weight[2] = gamma
            given = case.x, case.weight, case.bias
            y, statistics, bits = operators.forward(*given, case.residual, *options, True)
            lies = spill.behind(bits, y.numel(), y.dtype) is not None
            assert lies == (gamma == 0.0)
            assert not spill.is_copy(bits)
            assert bool(bits[-1]) == lies
            rest = statistics, *given[1:], *options, rows, True, True, True
            found = operators.backward(case.grad, None, y, case.residual, bits, *rest)
            direct = operators.backward(case.grad, case.x, y, case.residual, None, *rest)
            for one, other in zip(found, direct, strict=True):
                assert_close(one, other, "single")
            if lies:
                with pytest.raises(RuntimeError, match="got a copy of them without the input"):
                    operators.backward(case.grad, None, y, case.residual, bits.clone(), *rest)
            else:
                again = operators.backward(case.grad, None, y, case.residual, bits.clone(), *rest)
                assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
