"""The kernels as operators of torch.compile: opcheck, what they keep, when they fall back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import l1bn
from judge import assert_close, error, judge, make_case
from l1bn.activation import keeps_output
from l1bn.functional import l1_batch_norm
from l1bn.ops.cpu import kernels, operators
from l1bn.ops.cpu.layout import bits_bytes, to_layout
from l1bn.ops.native.float_norm import Native

if isinstance(kernels.NATIVE, str):
    pytest.skip(kernels.NATIVE, allow_module_level=True)
NATIVE: Native = kernels.NATIVE

LAYOUTS = ["contiguous", "channels_last", "strided", "transposed"]
# From torch 2.14 on opcheck itself asks tensors that are no leaves for their gradient.
OPCHECK = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("want_bits", [True, False])
@pytest.mark.parametrize(
    ("activation", "residual"),
    [
        (None, False), (None, True), ("relu", True), ("relu6", False),
        ("silu", True), ("gelu", False), ("elu", True), ("leaky_relu", False),
    ],
)  # fmt: skip
@OPCHECK
def test_opcheck(activation: str | None, residual: bool, want_bits: bool, layout: str) -> None:
    if want_bits and (residual if activation is None else not keeps_output(activation)):
        pytest.skip("x is kept there")
    case = make_case((3, 5, 4, 4), activation=activation, residual=residual, layout=layout)
    leaves = case.leaves()
    parameter = 0.3 if activation in ("elu", "leaky_relu") else None
    given = leaves["x"], leaves["weight"], leaves["bias"], leaves.get("residual")
    torch.library.opcheck(operators.forward, (*given, activation, parameter, 1e-5, want_bits))


@pytest.mark.parametrize(
    "shape", [(4, 20), (6, 3, 7), (2, 16, 3, 5), (2, 3, 2, 3, 3), (4, 1, 3, 3)]
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@OPCHECK
def test_opcheck_of_shapes(shape: tuple[int, ...], layout: str) -> None:
    if layout == "channels_last" and len(shape) != 4:
        pytest.skip("of four dimensions")
    case = make_case(shape, activation="relu", layout=layout)
    leaves = case.leaves()
    arguments = leaves["x"], leaves["weight"], leaves["bias"], None, "relu", None, 1e-5, True
    torch.library.opcheck(operators.forward, arguments)


@pytest.mark.parametrize("expanded", [(0,), (1,), (2, 3), (0, 2, 3)], ids=str)
@OPCHECK
def test_opcheck_of_expanded_inputs(expanded: tuple[int, ...]) -> None:
    shape = (3, 5, 4, 4)

    def some() -> Tensor:
        stored = [1 if d in expanded else n for d, n in enumerate(shape)]
        return torch.randn(stored).expand(shape).requires_grad_()

    weight, bias = torch.ones(1).expand(5).requires_grad_(), torch.randn(5, requires_grad=True)
    x, options = some(), ("relu", None, 1e-5)
    torch.library.opcheck(operators.forward, (x, weight, bias, some(), *options, True))
    with torch.no_grad():
        y, statistics, bits = operators.forward(x, weight, bias, None, *options, True)
        if bits[-1]:  # σ at its floor: an operator's bits with x behind are not to be copied
            return
        kept = None, y, None, bits, statistics, weight, bias, *options, False
        for wanted in [(True, True, True), (True, False, False), (False, True, False)]:
            torch.library.opcheck(operators.backward, (some(), *kept, *wanted))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("activation", "added"), [("relu", False), ("leaky_relu", True)])
def test_an_input_that_cannot_be_recovered_lies_behind_the_bits(
    activation: str, added: bool, dtype: torch.dtype, layout: str
) -> None:
    case = make_case((4, 6, 5, 5), dtype, activation=activation, residual=added, layout=layout)
    assert case.weight is not None
    case.weight[2] = 0.0
    with torch.no_grad():
        given = case.x, case.weight, case.bias
        y, statistics, bits = operators.forward(*given, case.residual, activation, None, 1e-5, True)
        _, place = to_layout(case.x)
        assert bits.shape == (bits_bytes(place) + operators.FLAG,)
        assert bits.untyped_storage().nbytes() > case.x.numel() * case.x.element_size()
        rows = layout == "channels_last"
        options = activation, None, 1e-5, rows, True, True, True
        rest = statistics, *given[1:], *options
        found = operators.backward(case.grad, None, y, case.residual, bits, *rest)
        direct = operators.backward(case.grad, case.x, y, case.residual, None, *rest)
        for one, other in zip(found, direct, strict=True):
            assert torch.equal(one, other)
        with pytest.raises(RuntimeError, match="got a copy of them without the input"):
            operators.backward(case.grad, None, y, None, bits.clone(), *rest)


@pytest.mark.parametrize(
    "shape", [(3, 37, 9, 7), (4, 20), (300, 5), (6, 3, 7), (2, 3, 2, 3, 3), (4, 1, 3, 3)]
)
def test_sizes_of_bits_are_the_kernels(shape: tuple[int, ...]) -> None:
    for layout in ("contiguous", "channels_last"):
        place = to_layout(make_case(shape, layout=layout).x)[1]
        assert bits_bytes(place) == NATIVE.bits_bytes(*place)


class Net(nn.Module):
    """Norms with and without an activation and a residual, all fed by convolutions."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = l1bn.L1BatchNormAct2d(8, **options)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = l1bn.L1BatchNormAct2d(8, act_layer=nn.ReLU6, **options)
        self.conv3 = nn.Conv2d(8, 8, 1, bias=False)
        self.norm3 = l1bn.L1BatchNorm2d(8, **options)
        self.conv4 = nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.stem(x))
        y = self.norm2(self.conv2(y), residual=y)
        return self.conv4(self.norm3(self.conv3(y)))


def compiled(model: nn.Module, backend: Any = "aot_eager") -> Any:
    return torch.compile(model, fullgraph=True, backend=backend)


def assert_trains_alike(one: Any, other: Any, plain: nn.Module, twin: nn.Module, x: Tensor) -> None:
    """One step of each: outputs, gradients and running statistics are the same."""
    a, b = one(x), other(x)
    assert_close(a, b, "cancelling")
    weight = torch.randn(a.shape)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    for p, q in zip(plain.parameters(), twin.parameters(), strict=True):
        assert_close(p.grad, q.grad, "network")
    torch.testing.assert_close(dict(plain.state_dict()), dict(twin.state_dict()))


@pytest.mark.parametrize(
    ("layout", "options"),
    [(torch.contiguous_format, {}), (torch.channels_last, {"momentum": None})],
    ids=str,
)
def test_batches_of_several_sizes_take_as_many_graphs_as_batchnorm(
    options: dict[str, Any], layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    plain = Net(**options)
    for name in ("stem", "conv2", "conv3", "conv4"):  # a convolution adds a graph
        setattr(plain, name, nn.Identity())
    twin = copy.deepcopy(plain)
    counter = CompileCounterWithBackend("aot_eager")
    made = compiled(twin, counter)
    for images in (16, 8, 24, 16):
        x = torch.randn(images, 8, 6, 6).contiguous(memory_format=layout)
        assert_trains_alike(plain, made, plain, twin, x)
    called = [str(node.target) for g in counter.graphs for node in g.graph.nodes]
    assert called.count("l1bn.cpu_forward.default") == 3 * counter.frame_count

    torch.compiler.reset()
    rival = CompileCounterWithBackend("aot_eager")
    made = compiled(nn.BatchNorm2d(8), rival)
    for images in (16, 8, 24, 16):
        made(torch.randn(images, 8, 6, 6)).sum().backward()
    assert counter.frame_count <= rival.frame_count


def kept_bytes(model: Any, x: Tensor, but: nn.Module) -> int:
    known = {p.untyped_storage().data_ptr() for p in but.parameters()}
    kept: dict[int, int] = {}

    def pack(v: Tensor) -> Tensor:
        storage = v.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return v

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
        y = model(x)
    del y
    return sum(kept.values())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_compiled_network_keeps_no_more_than_an_eager_one(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    plain = Net().to(memory_format=layout)  # type: ignore[call-overload]
    made = compiled(copy.deepcopy(plain), "aot_eager_decomp_partition")
    x = torch.randn(8, 3, 16, 16).contiguous(memory_format=layout)
    eager = kept_bytes(plain, x, plain)
    # Without an activation too, where eager mode keeps the input.
    few = kept_bytes(made, x, made)
    assert few < eager - 8 * 8 * 16 * 16 * 2
    with torch.no_grad():
        made.norm1.weight[0] = 0  # decided when it runs: the same graph keeps one tensor more
    more = kept_bytes(made, x, made) - few
    assert 0 < more <= 8 * 8 * 16 * 16 * 4 + 4096


def test_a_γ_that_comes_to_zero_needs_no_new_graph() -> None:
    torch.manual_seed(0)
    plain = Net()
    twin = copy.deepcopy(plain)
    counter = CompileCounterWithBackend("aot_eager")
    made = compiled(twin, counter)
    for value in (1.0, 0.0, 1.0):
        for model in (plain, twin):
            model.norm2.weight.data[3:5] = value
        assert_trains_alike(plain, made, plain, twin, torch.randn(8, 3, 6, 6))
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ["relu", None])
def test_other_dtypes(activation: str | None, dtype: torch.dtype) -> None:
    case = make_case((4, 20, 5, 5), dtype, activation=activation)
    leaves = case.leaves()

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return l1_batch_norm(x, None, None, weight, bias, True, activation=activation)

    made = torch.compile(call, fullgraph=True, backend="aot_eager")
    made(leaves["x"], leaves["weight"], leaves["bias"]).backward(case.grad)
    assert leaves["x"].grad.dtype == dtype
    bound = 1e-12 if dtype == torch.float64 else 2e-2
    assert error(leaves["x"].grad, judge(case)["dx"]) < bound
    assert error(leaves["weight"].grad, judge(case)["dweight"]) < bound


@pytest.mark.parametrize("frozen", ["weight", "x", "weight and x", "all but residual"])
def test_what_needs_no_gradient_gets_none(frozen: str) -> None:
    case = make_case((4, 6, 5, 5), activation="relu", residual=True)
    leaves = case.leaves()
    names = {"weight and x": ["weight", "x"], "all but residual": ["weight", "x", "bias"]}
    for name in names.get(frozen, [frozen]):
        leaves[name].requires_grad_(False)

    def call(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return l1_batch_norm(
            x, None, None, weight, bias, True, activation="relu", residual=residual
        )

    made = torch.compile(call, fullgraph=True, backend="aot_eager")
    made(*(leaves[k] for k in ("x", "weight", "bias", "residual"))).backward(case.grad)
    want = judge(case)
    for name, leaf in leaves.items():
        if leaf.requires_grad:
            assert error(leaf.grad, want[f"d{name}"]) < 1e-5, name
        else:
            assert leaf.grad is None


def test_an_edit_in_place_after_the_layer() -> None:
    for backend in ("eager", "aot_eager"):
        torch.compiler.reset()
        layer = l1bn.L1BatchNorm2d(3)
        x, z = (torch.randn(4, 3, 5, 5, requires_grad=True) for _ in range(2))
        z.data.copy_(x.data)
        F.relu(layer(x)).square().sum().backward()
        made = torch.compile(lambda v, f=layer: f(v).relu_(), fullgraph=True, backend=backend)
        made(z).square().sum().backward()
        assert_close(z.grad, x.grad, "cancelling")


def test_a_second_derivative_is_refused_by_the_compiler_and_right_without_it() -> None:
    layer = l1bn.L1BatchNormAct2d(3).double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)

    def penalty(f: Any) -> Tensor:
        (g,) = torch.autograd.grad(f(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), x)[0]

    want = penalty(layer)
    torch.testing.assert_close(penalty(compiled(layer, "eager")), want)
    torch.compiler.reset()
    with pytest.raises(RuntimeError, match="double backward"):
        penalty(compiled(layer))


def test_transforms_inside_a_compiled_function_get_the_formula() -> None:
    layer = l1bn.L1BatchNormAct2d(3, track_running_stats=False).double()
    x = torch.randn(4, 2, 3, 5, 5, dtype=torch.float64)

    def loss(v: Tensor) -> Tensor:
        return layer(v).square().sum()

    gradient = torch.func.grad(loss)
    made = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(made(x[0]), gradient(x[0]))
    mapped = torch.func.vmap(gradient)
    made = torch.compile(lambda v: mapped(v), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(made(x), mapped(x))


@pytest.mark.filterwarnings("ignore:L1BatchNormAct2d is exported in training mode")
def test_what_is_exported_has_no_operator_of_this_package() -> None:
    for strict in (True, False):
        program = torch.export.export(
            l1bn.L1BatchNormAct2d(3).train(), (torch.randn(4, 3, 5, 5),), strict=strict
        )
        assert not [n for n in program.graph.nodes if "l1bn" in str(n.target)]


def test_without_gradients_nothing_is_kept_and_evaluation_is_plain() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    layer = l1bn.L1BatchNormAct2d(3)
    made, x = compiled(layer, counter), torch.randn(4, 3, 5, 5)
    with torch.no_grad():
        made(x)
    layer.eval()
    made(x)
    trained, evaluated = (
        [n for n in g.graph.nodes if "l1bn" in str(n.target)] for g in counter.graphs
    )
    assert [n.kwargs["want_bits"] for n in trained] == [False]
    assert not evaluated


def test_a_named_backend_is_taken() -> None:
    for name in ("eager", "cpu"):
        torch.compiler.reset()
        counter = CompileCounterWithBackend("aot_eager")
        layer = l1bn.L1BatchNormAct2d(3)
        layer.backend = name
        compiled(layer, counter)(torch.randn(4, 3, 5, 5)).sum().backward()
        (graph,) = counter.graphs
        found = any("l1bn" in str(n.target) for n in graph.graph.nodes)
        assert found == (name == "cpu")


def test_inductor() -> None:
    torch.manual_seed(0)
    plain = l1bn.L1BatchNormAct2d(8)
    twin = copy.deepcopy(plain)
    made = compiled(twin, "inductor")
    for value in (1.0, 0.0):
        for model in (plain, twin):
            model.weight.data[3:5] = value
        assert_trains_alike(plain, made, plain, twin, torch.randn(8, 8, 6, 6))
