"""The compiled autograd node does what Python does, to the last bit, or leaves it to Python."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import l1bn
from judge import assert_close
from l1bn.activation import DESCRIPTIONS
from l1bn.cli import main
from l1bn.functional import ACTIVATIONS
from l1bn.ops.cpu import build, kernels, node
from l1bn.ops.cpu.backend import BACKEND
from l1bn.ops.records import Branch
from l1bn.ops.registry import keeps_its_output, registry

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile it with")


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    build.build()
    assert BACKEND.missing_node() is None


class Case:
    """A call, drawn."""

    def __init__(self, draw: Callable[[st.SearchStrategy], Any]) -> None:
        self.dtype = draw(st.sampled_from(sorted(kernels.DTYPES, key=str)))
        dims = draw(st.integers(2, 5))
        sizes = [draw(st.integers(1, 7)) for _ in range(dims - 2)]
        self.shape = draw(st.integers(2, 5)), draw(st.integers(1, 20)), *sizes
        self.last = dims in (4, 5) and draw(st.booleans())
        name = draw(st.sampled_from(ACTIVATIONS))
        takes = name is not None and DESCRIPTIONS[name].parameter is not None
        self.activation = (name, draw(st.sampled_from([0.0, 0.2]))) if takes else name
        self.residual, self.running, self.affine = (draw(st.booleans()) for _ in range(3))
        # Too small a γ to recover x̂ from y.
        self.small = draw(st.booleans())
        self.wanted = [draw(st.booleans()) for _ in range(3)]
        self.seed = draw(st.integers(0, 99))

    def tensors(self) -> list[Tensor | None]:
        """Input, running mean and variance, γ, β, residual; the same at every call."""
        generator = torch.Generator().manual_seed(self.seed)
        channels = self.shape[1]

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.dtype)

        def laid(v: Tensor) -> Tensor:
            if not self.last:
                return v
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            return v.contiguous(memory_format=formats[v.dim()])

        x, residual = laid(drawn(*self.shape)), laid(drawn(*self.shape))
        weight = drawn(channels) * (1e-9 if self.small else 1.0)
        found = [
            x,
            torch.zeros(channels) if self.running else None,
            torch.ones(channels) if self.running else None,
            weight if self.affine else None,
            drawn(channels) if self.affine else None,
            residual if self.residual else None,
        ]
        leaves = [v for v in (*found[3:],) if v is not None]
        for v, wanted in zip(leaves, self.wanted, strict=False):
            v.requires_grad_(wanted)
        x.requires_grad_()
        return found


def by_node(tensors: list[Tensor | None], activation: object) -> Tensor | None:
    x, mean, var, weight, bias, residual = tensors
    call = Branch(x, mean, var, weight, bias, True, momentum=0.1, eps=1e-5)
    return BACKEND.train_quickly(call, residual, activation)


def in_python(tensors: list[Tensor | None], activation: object) -> Tensor:
    x, mean, var, weight, bias, residual = tensors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "quick", lambda _: None)
        return l1bn.l1_batch_norm(
            x, mean, var, weight, bias, True, activation=activation, residual=residual,
            backend="cpu",
        )  # fmt: skip


def kept(call: Callable[[], Tensor | None]) -> tuple[Any, list[tuple[int, ...]]]:
    """The output, and the shapes of what was saved."""
    shapes = []

    def pack(v: Tensor) -> Tensor:
        shapes.append((*v.shape, v.itemsize))
        return v

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
        y = call()
    return y, sorted(shapes)


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.dtype is b.dtype and a.stride() == b.stride() and torch.equal(a, b)


@settings(max_examples=300)
@given(st.data())
def test_it_does_what_python_does(data: st.DataObject) -> None:
    case = Case(data.draw)
    first, second = case.tensors(), case.tensors()
    y, shapes = kept(lambda: by_node(first, case.activation))
    z, expected = kept(lambda: in_python(second, case.activation))
    assert y is not None, "the common call was left to Python"
    assert "CppNode" in y.grad_fn.name()
    assert keeps_its_output(y.grad_fn) is z.grad_fn.keeps_output
    assert shapes == expected
    assert equal(y.detach(), z.detach())
    for a, b in zip(first[1:3], second[1:3], strict=True):
        assert equal(a, b), "running statistics"
    grad = torch.randn(y.shape, dtype=torch.float64).to(y.dtype)
    grad = torch.empty_like(y).copy_(grad)
    y.backward(grad)
    z.backward(grad)
    for a, b in zip(first, second, strict=True):
        if a is not None:
            assert equal(a.grad, b.grad)


@settings(max_examples=60)
@given(st.data())
def test_second_derivatives(data: st.DataObject) -> None:
    case = Case(data.draw)
    case.dtype = torch.float64
    found = []
    for call in (by_node, in_python):
        tensors = case.tensors()
        leaves = [v for v in tensors if v is not None and v.requires_grad]
        y = call(tensors, case.activation)
        # Not linear in y, so that no second derivative is 0 for nothing.
        first = torch.autograd.grad((y**3).sum(), leaves, create_graph=True)
        total = sum((g.sin() * g).sum() for g in first)
        found.append((*first, *torch.autograd.grad(total, leaves, allow_unused=True)))
    for a, b in zip(*found, strict=True):
        assert (a is None) is (b is None)
        if a is not None:
            assert_close(a, b, "double sums", equal_nan=True)


def plain(**changed: object) -> dict[str, object]:
    """Arguments of a common call, some of them changed."""
    x = torch.randn(4, 6, 3, 3).requires_grad_()
    vector = {"weight": torch.ones(6), "bias": torch.zeros(6)}
    running = {"running_mean": torch.zeros(6), "running_var": torch.ones(6)}
    return {"input": x, **running, **vector, "residual": None, "momentum": 0.1, "eps": 1e-5,
            "activation": "relu", **changed}  # fmt: skip


UNCOMMON: dict[str, Callable[[], dict[str, object]]] = {
    "integers": lambda: plain(input=torch.ones(4, 6, 3, 3, dtype=torch.int64)),
    "one value a channel": lambda: plain(input=torch.randn(1, 6, 1, 1).requires_grad_()),
    "empty": lambda: plain(input=torch.randn(0, 6, 3, 3).requires_grad_()),
    "one dimension": lambda: plain(input=torch.randn(6).requires_grad_()),
    "gaps": lambda: plain(input=torch.randn(4, 6, 3, 6).requires_grad_()[..., ::2]),
    "negative view": lambda: plain(
        input=torch.randn(4, 6, 3, 3, dtype=torch.complex64).conj().imag.requires_grad_()
    ),
    "meta": lambda: plain(input=torch.randn(4, 6, 3, 3, device="meta").requires_grad_()),
    "sparse": lambda: plain(input=torch.randn(4, 6, 3, 3).to_sparse()),
    "not a tensor": lambda: plain(input=[1.0]),
    "other channels": lambda: plain(weight=torch.ones(5)),
    "weight with gaps": lambda: plain(weight=torch.ones(12)[::2]),
    "two dtypes": lambda: plain(weight=torch.ones(6, dtype=torch.float64)),
    "one running": lambda: plain(running_mean=None),
    "running of two dtypes": lambda: plain(running_var=torch.ones(6, dtype=torch.float64)),
    "no gradient of the input": lambda: plain(
        input=torch.randn(4, 6, 3, 3), weight=torch.ones(6, requires_grad=True)
    ),
    "a residual of another shape": lambda: plain(residual=torch.randn(4, 6, 3, 1)),
    "a residual of another dtype": lambda: plain(residual=torch.randn(4, 6, 3, 3).double()),
    "a residual in another layout": lambda: plain(
        residual=torch.randn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    ),
    "eps 0": lambda: plain(eps=0.0),
    "eps NaN": lambda: plain(eps=float("nan")),
    "momentum as a tensor": lambda: plain(momentum=torch.tensor(0.1)),
    "momentum as text": lambda: plain(momentum="0.1"),
    "another activation": lambda: plain(activation="swish"),
    "no activation's type": lambda: plain(activation=["relu"]),
    "a parameter where none is": lambda: plain(activation=("relu", 0.2)),
}


@pytest.mark.parametrize("case", UNCOMMON)
def test_what_is_uncommon_is_left_to_python(case: str) -> None:
    given = UNCOMMON[case]()
    before = {k: v.clone() for k, v in given.items() if isinstance(v, Tensor) and k != "input"}
    residual, activation = given["residual"], given["activation"]
    names = "input", "running_mean", "running_var", "weight", "bias"
    call = Branch(*(given[name] for name in names), True, given["momentum"], given["eps"])
    assert BACKEND.train_quickly(call, residual, activation) is None
    assert all(torch.equal(given[name], value) for name, value in before.items())


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_who_looks_on_sees_operations() -> None:
    layer, x = l1bn.L1BatchNorm2d(6), torch.randn(4, 6, 3, 3)
    with _Seen() as seen:
        layer(x.requires_grad_())
    assert len(seen.names) > 3
    grads = torch.func.grad(lambda v: (layer(v) ** 2).sum())(x)
    assert grads.isfinite().all()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
    assert tangent is not None
    assert layer.num_batches_tracked == 3


def test_gradients_in_a_batch() -> None:
    case = Case.__new__(Case)
    case.__dict__.update(
        dtype=torch.float64, shape=(3, 4, 2, 2), last=False, activation="relu", residual=True,
        running=True, affine=True, small=False, wanted=[True] * 3, seed=1,
    )  # fmt: skip
    tensors = case.tensors()
    leaves = [v for v in tensors if v is not None and v.requires_grad]
    y = by_node(tensors, "relu")
    grads = torch.randn(5, *y.shape, dtype=y.dtype)
    together = torch.autograd.grad(y, leaves, grads, is_grads_batched=True, retain_graph=True)
    for i, one in enumerate(grads):
        alone = torch.autograd.grad(y, leaves, one, retain_graph=True)
        for a, b in zip(together, alone, strict=True):
            assert_close(a[i], b, "double")


def test_saved_tensors_that_come_back_otherwise() -> None:
    """They are copied into place as Python does it, or refused with its words."""
    layer, x = l1bn.L1BatchNormAct2d(6), torch.randn(4, 6, 3, 3).requires_grad_()

    def strided(v: Tensor) -> Tensor:
        return torch.stack([v, v], -1)[..., 0] if v.dim() == 4 else v

    def gradient(unpack: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda v: v, unpack):
            y = layer(x)
        return torch.autograd.grad(y, x, torch.ones_like(y).mul_(x.detach()))[0]

    assert torch.equal(gradient(strided), gradient(lambda v: v.clone()))
    with pytest.raises(ValueError, match="a hook of saved tensors has to give back"):
        gradient(lambda v: v[:2] if v.dim() == 4 else v)


def test_an_output_edited_in_place_is_noticed() -> None:
    y = l1bn.L1BatchNormAct2d(6)(torch.randn(4, 6, 3, 3).requires_grad_())
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    z = l1bn.L1BatchNorm2d(6)(torch.randn(4, 6, 3, 3).requires_grad_()).relu_()
    z.sum().backward()


def test_a_graph_is_used_twice_only_on_demand() -> None:
    y = l1bn.L1BatchNormAct2d(6)(torch.randn(4, 6, 3, 3).requires_grad_()).sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_a_registered_backend_is_preferred() -> None:
    class Other(type(registry.get("eager"))):
        name = "other"

    assert registry.quick("auto") is BACKEND
    registry.register(Other())
    try:
        assert registry.quick("auto") is None
    finally:
        registry.unregister("other")
    assert registry.quick("auto") is BACKEND
    assert registry.quick("eager") is None


def test_large_results_come_from_the_pool() -> None:
    layer = nn.Sequential(l1bn.L1BatchNormAct2d(16), nn.Identity())
    x = torch.randn(8, 16, 128, 128).requires_grad_()
    used = l1bn.memory.stats().used
    y = layer(x)
    assert l1bn.memory.stats().used - used >= y.nbytes
    y.sum().backward()
    del y, layer
    assert l1bn.memory.stats().used - used <= x.nbytes + (2 << 20)  # x's gradient


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    node.find.cache_clear()
    yield tmp_path
    node.find.cache_clear()


def test_without_it_python_serves(empty_cache: Path) -> None:
    assert "run `l1bn build`" in str(BACKEND.missing_node())
    y = l1bn.L1BatchNorm2d(6)(torch.randn(4, 6, 3, 3).requires_grad_())
    assert "CppNode" not in y.grad_fn.name()


def test_a_broken_file_is_named(empty_cache: Path) -> None:
    place = node.place()
    place.parent.mkdir(parents=True)
    place.write_bytes(b"no library")
    assert "cannot be loaded" in str(BACKEND.missing_node())


def test_other_sources_are_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = node.place()
    shutil.copytree(node.sources(), tmp_path / "csrc")
    monkeypatch.setattr(node, "_INSTALLED", tmp_path / "csrc")
    assert node.place() == before
    with (tmp_path / "csrc" / "norm" / "interface.h").open("a") as file:
        file.write("// another interface\n")
    assert node.place() != before


def test_a_compiler_that_fails_leaves_nothing(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match="failed"):
        build.build()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="found no no-such-compiler"):
        build.build()
    assert not [f for f in empty_cache.rglob("*") if f.is_file()]


def test_the_command_says_where_it_lies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build"]) == 0
    assert capsys.readouterr().out == f"compiled before: {node.place()}\n"


@pytest.mark.usefixtures("empty_cache")
def test_the_command_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["build"]) == 2
    assert "found no no-such-compiler" in capsys.readouterr().err


@pytest.mark.usefixtures("empty_cache")
def test_the_doctor_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "run `l1bn build`" in " ".join(capsys.readouterr().out.split())
