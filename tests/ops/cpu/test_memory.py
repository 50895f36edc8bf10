"""The guard before every address: tensors whose memory does not hold their values as they are."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import l1bn.ops.cpu
from judge import assert_close, lay_out
from l1bn.functional import Branch, l1_batch_norm, l1_batch_norm_pair
from l1bn.ops.cpu import kernels as cpu_kernels
from l1bn.ops.cpu.memory import empty_like, is_ordinary, ordinary

if isinstance(cpu_kernels.NATIVE, str):
    pytest.skip(cpu_kernels.NATIVE, allow_module_level=True)

SHAPES = [(4, 20, 6, 5), (40, 9), (6, 5, 7), (2, 6, 3, 4, 5)]
LAYOUTS = ["contiguous", "channels_last", "strided", "transposed"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def test_addresses_are_taken_in_one_place() -> None:
    for path in Path(l1bn.ops.cpu.__path__[0]).glob("*.py"):
        names = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute)
        }
        assert ("data_ptr" in names) == (path.name == "memory.py"), path.name


def test_what_passed_the_guard_is_made_in_few_places() -> None:
    """``Ordinary(...)`` says to the type checker what only the guard may say."""
    found = {
        path.name: sum(
            isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Ordinary"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
        for path in Path(l1bn.ops.cpu.__path__[0]).glob("*.py")
    }
    assert {name for name, count in found.items() if count} == {"memory.py", "layout.py"}
    assert found["layout.py"] == 2  # copies of what passed


def leaves_of(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> list[Tensor]:
    """x, γ, β and a residual; x̂ can be recovered in every channel."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, residual = (lay_out(torch.randn(shape).to(dtype), layout) for _ in range(2))
    weight = torch.linspace(1.0, 2.0, shape[1], dtype=wide)
    return [v.requires_grad_() for v in (x, weight, -weight / 8, residual / 4)]


def train(leaves: list[Tensor], activation: str | None, **options: object) -> Tensor:
    x, weight, bias, residual = leaves
    return l1_batch_norm(
        x, None, None, weight, bias, True, activation=activation, residual=residual, **options
    )  # type: ignore[arg-type]


def evaluate(leaves: list[Tensor], activation: str | None, **options: object) -> Tensor:
    x, weight, bias, residual = leaves
    state = weight.detach() / 4, weight.detach() + 0.5
    return l1_batch_norm(
        x, *state, weight, bias, False, activation=activation, residual=residual, **options
    )  # type: ignore[arg-type]


def pair(leaves: list[Tensor], activation: str | None, **options: object) -> Tensor:
    x, weight, bias, residual = leaves
    ours = Branch(x, None, None, weight, bias, True, 0.1, 1e-5)
    theirs = Branch(residual, None, None, weight, bias, True, 0.1, 1e-5)
    return l1_batch_norm_pair(ours, theirs, activation or "relu", **options)  # type: ignore[arg-type]


CALLS = [train, evaluate, pair]


def gradients(call: Callable[..., Tensor], leaves: list[Tensor], grad: Tensor, activation) -> tuple:
    y = call(leaves, activation)
    return (y.detach(), *torch.autograd.grad(y, leaves, grad))


def restrided(v: Tensor) -> Tensor:
    """The same values with a gap after each; a number keeps its place."""
    wide = torch.full((*v.shape, 2), 77, dtype=v.dtype)
    wide[..., 0] = v
    return wide[..., 0]


def channels_last(v: Tensor) -> Tensor:
    return lay_out(v.clone(memory_format=torch.contiguous_format), "channels_last")


UNPACKS = [
    lambda v: v.clone(memory_format=torch.contiguous_format),
    channels_last,
    restrided,
    lambda v: -torch._neg_view(v) if v.dtype == torch.uint8 else torch._neg_view(-v),
]


@pytest.mark.parametrize("unpack", UNPACKS, ids=["contiguous", "channels_last", "gaps", "negative"])
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.__name__)
def test_saved_tensors_may_come_back_in_another_form(
    call: Callable[..., Tensor], activation: str | None, unpack: Callable[[Tensor], Tensor]
) -> None:
    for shape in SHAPES:
        for dtype in DTYPES:
            for layout in LAYOUTS[:2]:
                leaves = leaves_of(shape, dtype, layout)
                grad = torch.randn(shape).to(dtype)
                want = gradients(call, leaves, grad, activation)
                with torch.autograd.graph.saved_tensors_hooks(torch.clone, unpack):
                    got = gradients(call, leaves, grad, activation)
                assert_close(got, want)


@pytest.mark.parametrize("change", [lambda v: v[:-1], lambda v: v.double(), lambda v: v.to("meta")])
def test_saved_tensors_that_come_back_changed_are_refused(change) -> None:
    leaves = leaves_of((4, 20, 6, 5), torch.float32, "contiguous")
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, change):
        y = train(leaves, "relu")
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            y.sum().backward()


def negative(v: Tensor) -> Tensor:
    found = torch.complex(torch.zeros_like(v), -v.detach()).conj().imag
    assert found.is_neg()
    return found


@pytest.mark.parametrize("which", [0, 1, 2, 3, "gradient"])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.__name__)
def test_negative_views(call: Callable[..., Tensor], activation: str | None, which) -> None:
    leaves = leaves_of((4, 20, 6, 5), torch.float32, "contiguous")
    grad = torch.randn(4, 20, 6, 5)
    want = gradients(call, leaves, grad, activation)
    if which == "gradient":
        grad = negative(grad)
    else:
        leaves[which] = negative(leaves[which]).requires_grad_()
    assert_close(gradients(call, leaves, grad, activation), want)


@pytest.mark.parametrize("which", [0, 1, 2, 3, "gradient"])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.__name__)
def test_tensors_of_zeros_without_memory(call: Callable[..., Tensor], activation, which) -> None:
    leaves = leaves_of((4, 20, 6, 5), torch.float32, "contiguous")
    grad, found = torch.randn(4, 20, 6, 5), []
    for make in (torch.zeros, torch._efficientzerotensor):
        changed, back = list(leaves), grad
        if which == "gradient":
            back = make(grad.shape)
        else:
            changed[which] = make(leaves[which].shape)
        y = call(changed, activation)
        wanted = [v for v in changed if v.requires_grad]
        found.append((y.detach(), *torch.autograd.grad(y, wanted, back)))
    assert_close(found[1], found[0])


@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.__name__)
def test_another_default_device(call: Callable[..., Tensor]) -> None:
    leaves, grad = leaves_of((4, 20, 6, 5), torch.float32, "contiguous"), torch.randn(4, 20, 6, 5)
    want = gradients(call, leaves, grad, "relu")
    with torch.device("meta"):
        assert_close(gradients(call, leaves, grad, "relu"), want)
        y = call(leaves, "relu")
        (dx,) = torch.autograd.grad(y, leaves[0], grad, create_graph=True)
        dx.square().sum().backward()


@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.__name__)
def test_fake_tensors(call: Callable[..., Tensor]) -> None:
    leaves = leaves_of((4, 20, 6, 5), torch.float32, "channels_last")
    with FakeTensorMode(allow_non_fake_inputs=True):
        y = call(leaves, "relu")
        assert type(y) is not Tensor
    y, grad = call(leaves, "relu"), torch.randn(4, 20, 6, 5)
    with FakeTensorMode(allow_non_fake_inputs=True):
        (dx,) = torch.autograd.grad(y, leaves[0], grad)
        assert type(dx) is not Tensor


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.__name__)
def test_many_gradients_at_once(call: Callable[..., Tensor], activation: str | None) -> None:
    leaves = leaves_of((3, 5, 4, 4), torch.float64, "contiguous")
    y, grads = call(leaves, activation), torch.randn(4, 3, 5, 4, 4, dtype=torch.float64)
    each = [torch.autograd.grad(y, leaves, g, retain_graph=True) for g in grads]
    want = [torch.stack(v) for v in zip(*each, strict=True)]
    got = torch.autograd.grad(y, leaves, grads, is_grads_batched=True)
    assert_close(got, tuple(want))


def test_a_vectorized_jacobian() -> None:
    x = torch.randn(6, 3, dtype=torch.float64)

    def call(v: Tensor) -> Tensor:
        return l1_batch_norm(v, None, None, training=True, activation="relu")

    got = torch.autograd.functional.jacobian(call, x, vectorize=True)
    assert_close(got, torch.autograd.functional.jacobian(call, x))


def test_what_has_no_memory_is_refused() -> None:
    assert is_ordinary(torch.ones(3))
    with torch.inference_mode():
        assert is_ordinary(torch.ones(3))
    for bad in (torch.ones(3, device="meta"), torch.eye(3).to_sparse(), torch.ones(3).to_mkldnn()):
        with pytest.raises(TypeError, match="expected a strided tensor in this process's memory"):
            ordinary(bad)
    real = ordinary(torch.ones(3))
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        pytest.raises(TypeError, match="expected memory for a native kernel"),
    ):
        empty_like(real)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.__name__)
def test_any_layout_flag_and_dtype(call: Callable[..., Tensor], layout: str) -> None:
    rng = torch.Generator().manual_seed(5)

    def some(choices: list) -> object:
        return choices[int(torch.randint(len(choices), (), generator=rng))]

    flags = [lambda v: v, negative, restrided, lambda v: v.detach()[:1].expand(v.shape)]
    for _ in range(40):
        shape, dtype, activation = some(SHAPES), some(DTYPES), some([None, "relu", "relu6"])
        wide = dtype == torch.bfloat16
        leaves = leaves_of(shape, dtype, layout)  # type: ignore[arg-type]
        leaves = [v if wide else some(flags)(v).detach().requires_grad_() for v in leaves]  # type: ignore[operator]
        grad = some(flags[:1] if wide else flags)(torch.randn(shape).to(dtype))  # type: ignore
        got = gradients(call, leaves, grad, activation)
        plain = [v.detach().clone(memory_format=torch.contiguous_format) for v in leaves]
        plain = [v.resolve_neg().requires_grad_() for v in plain]
        want = gradients(call, plain, grad.resolve_neg().contiguous(), activation)
        for a, b in zip(got, want, strict=True):
            assert float((a - b).norm()) <= 64 * torch.finfo(b.dtype).eps * float(b.norm() + 1)
