"""A gradient that nobody else sees gives its memory to the input's; no other does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from judge import lay_out
from l1bn.functional import Branch, l1_batch_norm
from l1bn.ops.cpu import kernels as cpu_kernels
from l1bn.ops.cpu import reuse as spare
from l1bn.ops.cpu.backend import BACKEND

if isinstance(cpu_kernels.NATIVE, str):
    pytest.skip(cpu_kernels.NATIVE, allow_module_level=True)

SHAPE = (8, 24, 15, 15)  # above spare.WORTHWHILE, and no whole number of vectors
Kept = list[Tensor]


def norm(x: Tensor, activation: str | None = "relu", residual: Tensor | None = None) -> Tensor:
    channels = torch.linspace(0.5, 1.5, x.shape[1])
    y = l1_batch_norm(
        x, None, None, channels, -channels / 4, True, residual=residual, activation=activation
    )
    assert y.grad_fn is not None
    return y


class Passing(torch.autograd.Function):
    """The identity, whose backward is a function of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.back = back
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.back(grads[0]), None


class Keeping(TorchDispatchMode):
    """A mode that keeps what it sees."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.kept.append(out)
        return out


def held_by_caller(x: Tensor, kept: Kept) -> None:
    kept.append(torch.linspace(-1, 1, x.numel()).view(x.shape))
    norm(x).backward(kept[0])


def held_behind_addition(x: Tensor, kept: Kept) -> None:
    kept.append(torch.linspace(-1, 1, x.numel()).view(x.shape))
    (norm(x) + 1).backward(kept[0])


def held_by_hook(x: Tensor, kept: Kept) -> None:
    y = norm(x)
    y.register_hook(kept.append)
    (y * y).sum().backward()


def alias_held_by_hook(x: Tensor, kept: Kept) -> None:
    y = norm(x)
    y.register_hook(lambda g: kept.append(g.detach()))
    (y * y).sum().backward()


def part_held_by_hook(x: Tensor, kept: Kept) -> None:
    y = norm(x)
    y.register_hook(lambda g: kept.append(g[0]))
    (y * y).sum().backward()


def array_held_by_hook(x: Tensor, kept: Kept) -> None:
    arrays = []
    y = norm(x)
    y.register_hook(lambda g: arrays.append(g.numpy()))
    (y * y).sum().backward()
    kept.append(torch.from_numpy(arrays[0]))


def storage_held_by_hook(x: Tensor, kept: Kept) -> None:
    storages = []
    y = norm(x)
    y.register_hook(lambda g: storages.append((g.untyped_storage(), g.stride())))
    (y * y).sum().backward()
    storage, stride = storages[0]
    kept.append(torch.empty(0).set_(storage, 0, x.shape, stride))


def called_directly(x: Tensor, kept: Kept) -> None:
    kept.append(torch.linspace(-1, 1, x.numel()).view(x.shape))
    node: Any = norm(x).grad_fn
    with torch.no_grad():
        found = node.apply(kept[0], None)
    x.grad = (found if isinstance(found, Tensor) else found[0]).clone()


def retained(x: Tensor, kept: Kept) -> None:
    y = norm(x)
    y.retain_grad()
    (y * y).sum().backward()
    assert y.grad is not None
    kept.append(y.grad)


def asked_for(x: Tensor, kept: Kept) -> None:
    y = norm(x)
    kept.append(torch.autograd.grad((y * y).sum(), [y, x])[0])
    (norm(x) * 2).sum().backward()


def post_hook(x: Tensor, kept: Kept) -> None:
    y = norm(x)
    assert y.grad_fn is not None
    y.grad_fn.register_hook(lambda _, grads: kept.append(grads[0]))
    (y * y).sum().backward()


def module_hook(x: Tensor, kept: Kept) -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return norm(x)

    layer = Layer()
    layer.register_full_backward_hook(lambda _, _dx, grads: kept.append(grads[0]))
    y = layer(x)
    (y * y).sum().backward()


def shared_by_branches(x: Tensor, kept: Kept) -> None:
    # Addition gives both branches the same tensor.
    y = norm(x) + norm(x * 2, None)
    (y * y).sum().backward()
    kept.append(y.detach())


def residual_is_shared(x: Tensor, kept: Kept) -> None:
    y = norm(x, None, residual=x * 2)
    z = norm(y * 1, "relu", residual=y)
    (z * z).sum().backward()
    kept.append(z.detach())


def memory_of_an_array(x: Tensor, kept: Kept) -> None:
    array = np.linspace(-1, 1, x.numel(), dtype=np.float32).reshape(x.shape)
    y: Any = Passing.apply(norm(x), lambda _: torch.from_numpy(array))
    y.sum().backward()
    kept.append(torch.from_numpy(array))


def kept_by_its_maker(x: Tensor, kept: Kept) -> None:
    def back(grad: Tensor) -> Tensor:
        kept.append(grad * 2)
        return kept[0]

    y: Any = Passing.apply(norm(x), back)
    y.sum().backward()


def watched_by_a_mode(x: Tensor, kept: Kept) -> None:
    y = norm(x)
    with Keeping(kept):
        (y * y).sum().backward()


def pair_held_by_hook(x: Tensor, kept: Kept) -> None:
    ours = Branch(x * 1, None, None, None, None, True, 0.1, 1e-5)
    theirs = Branch(x.square(), None, None, None, None, True, 0.1, 1e-5)
    y = BACKEND.train_pair(ours, theirs, "relu")
    assert y is not None
    y.register_hook(kept.append)
    (y * y).sum().backward()


def frozen_held_by_hook(x: Tensor, kept: Kept) -> None:
    mean, var = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    y = l1_batch_norm(x, mean, var, None, None, False, activation="relu")
    y.register_hook(kept.append)
    (y * y).sum().backward()


SITUATIONS = [
    held_by_caller, held_behind_addition, held_by_hook, alias_held_by_hook, part_held_by_hook,
    array_held_by_hook, storage_held_by_hook, called_directly, retained,
    asked_for, post_hook, module_hook, shared_by_branches,
    residual_is_shared, memory_of_an_array, kept_by_its_maker, watched_by_a_mode,
    pair_held_by_hook, frozen_held_by_hook,
]  # fmt: skip


def outcome(situation: Callable[[Tensor, Kept], None], layout: str) -> tuple[Kept, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = lay_out(torch.randn(SHAPE, generator=rng), layout).requires_grad_()
    kept: Kept = []
    situation(x, kept)
    assert kept
    assert x.grad is not None
    return kept, x.grad


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.__name__)
def test_who_sees_a_gradient_sees_it_unharmed(
    situation: Callable[[Tensor, Kept], None], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, dx = outcome(situation, layout)
    monkeypatch.setattr(spare, "WORTHWHILE", math.inf)
    want, want_dx = outcome(situation, layout)
    assert torch.equal(dx, want_dx)
    assert len(kept) == len(want)
    for mine, other in zip(kept, want, strict=True):
        assert torch.equal(mine, other)


def frozen(x: Tensor) -> Tensor:
    mean, var = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    return l1_batch_norm(x, mean, var, None, None, False, activation="relu")


def without_activation(x: Tensor) -> Tensor:
    return norm(x, None)


def pair(x: Tensor) -> Tensor:
    ours = Branch(x, None, None, None, None, True, 0.1, 1e-5)
    theirs = Branch(x.detach().square(), None, None, None, None, True, 0.1, 1e-5)
    y = BACKEND.train_pair(ours, theirs, "relu")
    assert y is not None
    return y


def addresses(
    make: Callable[[Tensor], Tensor], layout: str = "contiguous", back: Any = None
) -> tuple[int, int]:
    """Where the gradients of an output and of its input lie."""
    found: list[int] = []
    x = lay_out(torch.randn(SHAPE), layout).requires_grad_() * 1
    y = make(x)
    x.register_hook(lambda g: found.append(g.data_ptr()))
    y.register_hook(lambda g: found.append(g.data_ptr()))
    (y * y if back is None else Passing.apply(y, back)).sum().backward()
    of_y, of_x = found
    return of_y, of_x


tells = pytest.mark.skipif(
    not hasattr(torch.autograd.Function, "boxed_grads_call"),
    reason="this torch lends the gradients and does not give them away",
)


@tells
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("make", [norm, without_activation, frozen])
def test_a_gradient_nobody_sees_gives_its_memory(
    make: Callable[[Tensor], Tensor], layout: str
) -> None:
    of_y, of_x = addresses(make, layout)
    assert of_y == of_x


@tells
def test_the_gradient_of_a_residual_takes_the_memory() -> None:
    found: list[int] = []
    x, residual = (torch.randn(SHAPE, requires_grad=True) * 1 for _ in range(2))
    y = norm(x, "relu", residual)
    for v in (y, residual):
        v.register_hook(lambda g: found.append(g.data_ptr()))
    (y * y).sum().backward()
    assert found[0] == found[1]


@tells
def test_the_other_branch_of_a_pair_takes_the_memory() -> None:
    found: list[int] = []
    x, other = (torch.randn(SHAPE, requires_grad=True) * 1 for _ in range(2))
    branches = (Branch(v, None, None, None, None, True, 0.1, 1e-5) for v in (x, other))
    y = BACKEND.train_pair(*branches, "relu")
    assert y is not None
    for v in (y, other):
        v.register_hook(lambda g: found.append(g.data_ptr()))
    (y * y).sum().backward()
    assert found[0] == found[1]


@tells
def test_the_reused_memory_is_another_tensor() -> None:
    seen: list[tuple[int, bool]] = []

    def mark(grad: Tensor) -> None:
        seen.append((grad.data_ptr(), hasattr(grad, "mark")))
        grad.mark = True  # type: ignore[attr-defined]

    x = torch.randn(SHAPE, requires_grad=True) * 1
    y = norm(x)
    x.register_hook(mark)
    y.register_hook(mark)
    (y * y).sum().backward()
    assert seen[0][0] == seen[1][0]
    assert not seen[1][1]


def test_a_small_gradient_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "WORTHWHILE", 4 * math.prod(SHAPE) + 1)
    of_y, of_x = addresses(norm)
    assert of_y != of_x


def test_a_part_of_larger_memory_is_left() -> None:
    # Else the input's gradient would hold all of it.
    def back(grad: Tensor) -> Tensor:
        storage = torch.ones(2 * grad.numel()).untyped_storage()
        return torch.empty(0).set_(storage, 0, grad.shape)

    of_y, of_x = addresses(norm, back=back)
    assert of_y != of_x


@pytest.mark.parametrize("missing", ["_storage_Use_Count"])
def test_nothing_is_spare_where_references_cannot_be_counted(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch._C, missing)
    of_y, of_x = addresses(norm)
    assert of_y != of_x


def test_gradients_that_are_lent_are_not_spare() -> None:
    grad = torch.ones(SHAPE)
    assert spare.take_first((grad, None)) == (grad, [None], False)


@tells
@pytest.mark.parametrize("recorded", [False, True])
def test_nothing_is_spare_where_the_derivative_is_recorded(recorded: bool) -> None:
    with torch.set_grad_enabled(recorded):
        assert spare.take_first(([torch.ones(SHAPE)],))[2] is not recorded


BIG = (2, 32, 600, 600)  # above half of most last-level caches: outputs are streamed


@pytest.mark.parametrize(
    "shape",
    [
        (6, 20, 9, 9),
        (3, 40, 1, 70),
        (9, 16, 16, 16),
        (5, 3, 3, 3),
        (70, 64, 3, 3),
        (60, 7, 9, 9),
        (40, 33, 3, 3),
        BIG,
    ],
)
@pytest.mark.parametrize("dtype", list(cpu_kernels.DTYPES), ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_overwriting_changes_no_bit(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str
) -> None:
    if shape == BIG and dtype not in (torch.float32, torch.bfloat16):
        pytest.skip("two formats will do at this size")
    rng = torch.Generator().manual_seed(1)
    x, grad, residual = (
        lay_out(torch.randn(shape, generator=rng).to(dtype), layout) for _ in range(3)
    )
    ways = [(0, True, False), (0, True, True), (1, True, True), (1, False, False), (1, False, True)]
    for (activation, from_x, with_residual), frozen_ in itertools.product(ways, (False, True)):
        added = residual if with_residual else None
        y, statistics, bits, where = cpu_kernels.forward(
            x, None, None, added, activation, 1e-5, True, None
        )
        kept = (x, None, None) if from_x else (None, added, bits)
        results = [
            cpu_kernels.backward(
                grad.clone(), where, y, *kept, None, None, statistics, activation, 1e-5,
                True, True, with_residual, frozen_, overwrite,
            )
            for overwrite in (False, True)
        ]  # fmt: skip
        for fresh, taken in zip(*results, strict=True):
            assert (fresh is None) == (taken is None)
            assert fresh is None or torch.equal(fresh, taken)
