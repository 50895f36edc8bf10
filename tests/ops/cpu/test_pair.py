"""Two branches of a residual block, normalized, added and activated: exact, and what is kept."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from judge import assert_close, lay_out
from l1bn import reference
from l1bn.activation import slope
from l1bn.functional import Branch, l1_batch_norm, l1_batch_norm_pair
from l1bn.ops.cpu import kernels as cpu_kernels
from l1bn.ops.cpu.backend import BACKEND
from l1bn.ops.cpu.layout import spread, to_layout

if isinstance(cpu_kernels.NATIVE, str):
    pytest.skip(cpu_kernels.NATIVE, allow_module_level=True)

SHAPES = [(6, 20, 9, 9), (5, 3, 4, 4), (40, 33), (2, 17, 3, 5, 5), (8, 24, 5)]
LAYOUTS = ["contiguous", "channels_last"]
Leaves = list[Tensor]


def make(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    layouts: tuple[str, str] = ("contiguous", "contiguous"),
    seed: int = 0,
) -> tuple[Leaves, Tensor]:
    """x, γ and β of two branches, γ of both signs, and the gradient of the output."""
    rng = torch.Generator().manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = []
    for layout in layouts:
        x = torch.randn(*shape, generator=rng, dtype=torch.float64) * 1.5 + 0.3
        weight = 0.5 + torch.rand(shape[1], generator=rng, dtype=torch.float64)
        weight[::3] *= -1
        bias = 0.3 * torch.randn(shape[1], generator=rng, dtype=torch.float64)
        leaves += [lay_out(x.to(dtype), layout), weight.to(wide), bias.to(wide)]
    grad = torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)
    return [leaf.requires_grad_() for leaf in leaves], grad


def branches(leaves: Leaves, running: list[Tensor] | None = None) -> tuple[Branch, Branch]:
    x, weight, bias, other_x, other_weight, other_bias = leaves
    moved: Sequence[Tensor | None] = running or [None] * 4
    return (
        Branch(x, moved[0], moved[1], weight, bias, True, 0.1, 1e-5),
        Branch(other_x, moved[2], moved[3], other_weight, other_bias, True, 0.1, 1e-5),
    )


def pair(leaves: Leaves, activation: str = "relu") -> Tensor:
    y = BACKEND.train_pair(*branches(leaves), activation)
    assert y is not None
    return y


def kept(leaves: Leaves, activation: str = "relu") -> list[Tensor]:
    """What a call keeps for backward, less parameters, each storage once."""
    saved: dict[int, Tensor] = {}

    def pack(v: Tensor) -> Tensor:
        saved.setdefault(v.untyped_storage().data_ptr(), v)
        return v

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.clone):
        pair(leaves, activation)
    given = {leaves[i].data_ptr() for i in (1, 2, 4, 5)}
    return [v for at, v in saved.items() if at not in given]


def normalized(leaves: Leaves) -> Tensor:
    """The sum before the activation, in float64."""
    wide = [leaf.detach().double() for leaf in leaves]
    return reference.forward(*wide[:3])[0] + reference.forward(*wide[3:])[0]


def exact(leaves: Leaves, grad: Tensor, activation: str) -> list[Tensor]:
    """Gradients by the closed form in float64."""
    wide = [leaf.detach().double() for leaf in leaves]
    g = grad.double() * slope(normalized(leaves), activation)
    ours, theirs = reference.backward(g, *wide[:3]), reference.backward(g, *wide[3:])
    return [*ours[:3], *theirs[:3]]


def eager(leaves: Leaves, activation: str = "relu") -> Tensor:
    first, second = branches(leaves)
    residual = l1_batch_norm(*second, backend="eager")
    return l1_batch_norm(*first, activation=activation, residual=residual, backend="eager")


def assert_exact(leaves: Leaves, grad: Tensor, activation: str) -> None:
    """Fail where a gradient's error exceeds twice the eager formula's, or that of rounding."""
    z, unit = normalized(leaves), torch.finfo(grad.dtype).eps
    kinks = torch.stack([z.abs(), (z - 6).abs()]).amin(0)
    # There rounding decides on the mask.
    grad = torch.where(kinks < 16 * unit * (1 + z.abs()), 0.0, grad.double()).to(grad.dtype)
    # Any order of operations may have this much, see judge.py.
    rounding = unit if unit > 1e-4 else 4 * unit
    want = exact(leaves, grad, activation)
    got = torch.autograd.grad(pair(leaves, activation), leaves, grad)
    plain = torch.autograd.grad(eager(leaves, activation), leaves, grad)
    for i, (value, ours, theirs) in enumerate(zip(want, got, plain, strict=True)):
        assert ours.dtype == leaves[i].dtype
        assert ours.shape == leaves[i].shape
        # Norm of the terms of a sum: their rounding cannot vanish with it.
        size = float(grad.double().norm()) if i % 3 == 1 else 1e-300
        size = max(size, float(value.norm()))
        mine, other = (float((v.double() - value).norm()) / size for v in (ours, theirs))
        assert mine <= max(2 * other, rounding), f"gradient {i}: {mine:.3g}, eager {other:.3g}"


@pytest.mark.parametrize("layouts", list(itertools.product(LAYOUTS, LAYOUTS)))
@pytest.mark.parametrize("dtype", cpu_kernels.DTYPES, ids=lambda d: str(d)[6:])
def test_gradients_are_exact(dtype: torch.dtype, layouts: tuple[str, str]) -> None:
    for shape, activation in itertools.product(SHAPES, ["relu", "relu6"]):
        leaves, grad = make(shape, dtype, layouts)
        assert_exact(leaves, grad, activation)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing_but_rounding(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for shape in [(16, 64, 16, 16), (8, 3, 160, 160)]:
            assert_exact(*make(shape), "relu")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_half_of_one_branch_is_kept(dtype: torch.dtype) -> None:
    leaves, _ = make((4, 32, 8, 8), dtype)
    with torch.no_grad():  # a limit of 4 for bfloat16: (|β| + max|residual|) / |γ|
        leaves[1].fill_(2.0)
        leaves[4].fill_(0.5)
    y, elements = pair(leaves), leaves[0].numel()
    alive = int((y > 0).sum())
    assert 0.3 * elements < alive < 0.7 * elements
    sizes = sorted(v.numel() for v in kept(leaves))
    bits = elements // 8
    assert sizes == sorted([elements, alive, bits, bits, 3 * 32, 3 * 32])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("small", "inputs"), [((1,), 1), ((4,), 1), ((1, 4), 2)], ids=["first", "second", "both"]
)
def test_a_small_weight_keeps_its_input(
    small: tuple[int, ...], inputs: int, dtype: torch.dtype
) -> None:
    leaves, grad = make((4, 20, 8, 8), dtype)
    with torch.no_grad():
        leaves[1].mul_(4)
        leaves[4].div_(2)
        leaves[2].mul_(0.1)
        leaves[5].mul_(0.1)
        for i in small:
            leaves[i][3] = 0.0 if i == 1 else 1e-4
    held = {v.untyped_storage().data_ptr() for v in kept(leaves)}
    given = [leaves[i].untyped_storage().data_ptr() in held for i in (0, 3)]
    assert given == [1 in small, 4 in small]
    assert sum(given) == inputs
    assert_exact(leaves, grad, "relu")


def test_an_edit_of_the_output_raises() -> None:
    leaves, grad = make((4, 20, 8, 8))
    y = pair(leaves)
    y += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(grad)


@pytest.mark.parametrize("small", [(), (1,), (4,), (1, 4)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_second_derivative(small: tuple[int, ...], layout: str) -> None:
    for shape in [(3, 5, 4, 4), (2, 20, 5, 5)]:
        leaves, grad = make(shape, torch.float64, (layout, "contiguous"))
        with torch.no_grad():
            for i in small:
                leaves[i][1] = 1e-4

        def second(function: object, leaves: Leaves = leaves, grad: Tensor = grad) -> Leaves:
            y = function(leaves)  # type: ignore[operator]
            dx, dother = torch.autograd.grad(y, [leaves[0], leaves[3]], grad, create_graph=True)
            wanted = dx.square().sum() + dother.pow(3).sum()
            found = torch.autograd.grad(wanted, leaves, allow_unused=True)
            return [torch.zeros_like(v) if g is None else g for v, g in zip(leaves, found)]  # noqa: B905

        for got, want in zip(second(pair), second(eager), strict=True):
            assert_close(got, want, "single")


@pytest.mark.parametrize("wanted", [(0,), (3,), (1, 5), (0, 4)])
def test_only_what_is_wanted(wanted: tuple[int, ...]) -> None:
    leaves, grad = make((4, 20, 8, 8))
    every = torch.autograd.grad(pair(leaves), leaves, grad)
    for i, leaf in enumerate(leaves):
        leaf.requires_grad_(i in wanted)
    got = torch.autograd.grad(pair(leaves), [leaves[i] for i in wanted], grad)
    assert all(torch.equal(g, every[i]) for g, i in zip(got, wanted, strict=True))


def test_the_running_statistics_move_as_in_two_calls() -> None:
    leaves, _ = make((4, 20, 8, 8))
    ours = [torch.zeros(20), torch.ones(20), torch.zeros(20), torch.ones(20)]
    theirs = [v.clone() for v in ours]
    y = l1_batch_norm_pair(*branches(leaves, ours), "relu")
    assert y.grad_fn is not None
    assert "TrainPair" in y.grad_fn.name()
    first, second = branches(leaves, theirs)
    residual = l1_batch_norm(*second)
    want = l1_batch_norm(*first, activation="relu", residual=residual)
    assert torch.equal(y, want)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_where_it_cannot_serve_two_calls_do() -> None:
    leaves, _ = make((4, 20, 8, 8))
    want = pair(leaves)
    with torch.no_grad():
        assert torch.equal(l1_batch_norm_pair(*branches(leaves), "relu"), want)
    first, second = branches(leaves)
    got = l1_batch_norm_pair(first, second, "relu", backend="eager")
    torch.testing.assert_close(got, want)
    frozen = second._replace(
        training=False, running_mean=torch.zeros(20), running_var=torch.ones(20)
    )
    got = l1_batch_norm_pair(first, frozen, "relu")
    added = F.batch_norm(leaves[3], torch.zeros(20), torch.ones(20), leaves[4], leaves[5])
    torch.testing.assert_close(got, l1_batch_norm(*first, activation="relu", residual=added))


def test_branches_of_two_shapes_are_refused() -> None:
    first, second = branches(make((4, 20, 8, 8))[0])
    with pytest.raises(ValueError, match="expected residual of the input's shape"):
        l1_batch_norm_pair(first, second._replace(input=torch.randn(4, 20, 1, 1)), "relu")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_packing(shape: tuple[int, ...], layout: str) -> None:
    value = lay_out(torch.randn(shape), layout)
    y = lay_out((torch.randn(shape) * 4).clamp(0, 6), layout)
    for code, where in ((1, y > 0), (2, (y > 0) & (y < 6))):
        packed = cpu_kernels.pack_alive(y, value, to_layout(y)[1], code)
        assert packed.numel() == where.sum()
        want = torch.where(where, value, 0.0)
        assert torch.equal(cpu_kernels.unpack_alive(y, packed, to_layout(y)[1], code), want)
        assert torch.equal(spread(packed, where, to_layout(y)[1]), want)
