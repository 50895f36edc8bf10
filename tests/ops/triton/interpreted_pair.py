"""Two joined branches in Triton's interpreter; `test_interpreter.py` runs this in its process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from judge import Case, assert_close, error, judge, off_the_kinks
from l1bn.activation import Activation, slope
from l1bn.functional import l1_batch_norm, l1_batch_norm_pair
from l1bn.ops.triton import plan
from pairs import Leaves, branches, leaves_of, make


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


def pair(leaves: Leaves, activation: Activation = "relu") -> Tensor:
    return l1_batch_norm_pair(*branches(leaves), activation, backend="triton")


def two_calls(leaves: Leaves, activation: Activation, backend: str) -> Tensor:
    first, second = branches(leaves)
    residual = l1_batch_norm(*second, backend=backend)
    return l1_batch_norm(*first, activation=activation, residual=residual, backend=backend)


def judged(first: Case, second: Case, activation: Activation) -> tuple[Tensor, Leaves, Tensor]:
    """By the reference in float64: y, every gradient, and the gradient of y off the kinks."""
    added = judge(second)["y"]
    whole = Case(first.x, first.grad, first.weight, first.bias, added, activation)
    # Off the kinks by what both roundings may do to z.
    grad = off_the_kinks(whole).grad
    z = judge(Case(first.x, grad, first.weight, first.bias, added))["y"]
    unit = torch.finfo(first.x.dtype).eps
    near = torch.stack([z.abs(), (z - 6).abs()]).amin(0) < 16 * unit * (1 + added.abs())
    grad = torch.where(near, 0.0, grad.double()).to(grad.dtype)
    g = grad.double() * slope(z, activation)
    found = [judge(Case(c.x, g, c.weight, c.bias)) for c in (first, second)]
    return (
        judge(whole)["y"],
        [one[name] for one in found for name in ("dx", "dweight", "dbias")],
        grad,
    )


def assert_judged(first: Case, second: Case, activation: Activation) -> None:
    """Fail where an error exceeds twice the eager formula's own, or that of rounding."""
    want_y, want, grad = judged(first, second, activation)
    leaves = leaves_of(first, second)
    y = pair(leaves, activation)
    got = torch.autograd.grad(y, leaves, grad)
    plain_y = two_calls(leaves, activation, "eager")
    plain = torch.autograd.grad(plain_y, leaves, grad)
    rounding = torch.finfo(first.x.dtype).eps * (1 if first.x.element_size() == 2 else 8)
    # Norms of the terms that a result is a sum of; their rounding cannot vanish with it.
    size = float(grad.double().norm())
    sizes = [0.0]
    for case in (first, second):
        view = (1, -1, *[1] * (grad.dim() - 2))
        scale = judge(case)["scale"]
        terms = grad.double() * (case.weight.double() / scale).view(view)
        sizes += [float(terms.norm()), size, size]
    rows = zip((y, *got), (plain_y, *plain), (want_y, *want), sizes, strict=True)
    for i, (ours, theirs, value, large) in enumerate(rows):
        assert ours.dtype == theirs.dtype
        assert ours.shape == value.shape
        allowed = max(2 * error(theirs, value, large), rounding)
        found = error(ours, value, large)
        assert found <= allowed, f"result {i}: error {found:.3g} above {allowed:.3g}"


#: Shape, dtype, activation, layouts of both.
CASES = [
    ((2, 1), torch.float32, "relu", ("contiguous", "contiguous")),
    ((33, 7), torch.bfloat16, "relu6", ("contiguous", "strided")),
    ((5, 4, 9), torch.float16, "relu", ("transposed", "contiguous")),
    ((3, 9, 13, 5), torch.float32, "relu", ("channels_last", "contiguous")),
    ((2, 70, 4, 5), torch.float32, "relu6", ("channels_last", "channels_last")),
    ((2, 70, 4, 5), torch.bfloat16, "relu", ("channels_last", "channels_last")),
    ((3, 5, 1, 1), torch.float64, "relu", ("contiguous", "contiguous")),
    ((2, 5, 3, 4, 5), torch.float16, "relu6", ("contiguous", "channels_last")),
    ((4, 2, 30, 31), torch.float32, "relu", ("strided", "contiguous")),
    ((4, 2, 30, 31), torch.bfloat16, "relu", ("contiguous", "contiguous")),
]


@pytest.mark.usefixtures("launches", "poisoned_allocations")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes_dtypes_and_layouts(case: tuple) -> None:
    shape, dtype, activation, layouts = case
    assert_judged(*make(shape, dtype, layouts), activation)


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gamma", [0.0, -1e-6, 1e-3])
@pytest.mark.parametrize("small", [(0,), (1,), (0, 1)], ids=["first", "second", "both"])
def test_small_gamma_gives_no_wrong_gradient(
    small: tuple[int, ...], gamma: float, dtype: torch.dtype
) -> None:
    made = make((6, 5, 4, 5), dtype, ("contiguous", "contiguous"))
    for i in small:
        made[i].weight[::2] = gamma
    assert_judged(*made, "relu")


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("kind", ["far", "floored", "outlier"])
def test_hard_data(kind: str) -> None:
    made = make((4, 3, 6, 11), torch.float32, ("contiguous", "contiguous"),
                1000.0 if kind == "far" else 0.3)  # fmt: skip
    for case, channel in zip(made, (0, 1), strict=True):
        if kind == "floored":
            case.x[:, channel] = 5.0
        if kind == "outlier":
            case.x[0, :, 0, 0] = 1e4
    assert_judged(*made, "relu")


def kept(leaves: Leaves) -> dict[int, int]:
    """Bytes that a call keeps for backward, by their place."""
    sizes: dict[int, int] = {}

    def pack(v: Tensor) -> Tensor:
        sizes[v.untyped_storage().data_ptr()] = v.numel() * v.element_size()
        return v

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
        y = pair(leaves)
    return {y.untyped_storage().data_ptr(): -1} | sizes


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("gamma", [None, 0.0])
def test_the_output_one_input_and_two_bits_per_element_are_kept(gamma: float | None) -> None:
    made = make((4, 8, 16, 16), torch.float32, ("contiguous", "contiguous"))
    if gamma is not None:
        made[0].weight[3] = gamma
    leaves = leaves_of(*made)
    sizes = kept(leaves)
    elements = leaves[0].numel()
    places = [leaves[i].untyped_storage().data_ptr() in sizes for i in (0, 3)]
    assert places == [gamma is not None, True]
    assert -1 not in sizes.values()  # y is kept
    least = 4 * elements * (2 + (gamma is not None)) + elements // 4
    assert least <= sum(sizes.values()) < least + 1200


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("gamma", [None, 0.0])
def test_derivatives_of_second_order(gamma: float | None) -> None:
    made = make((2, 3, 2, 3), torch.float64, ("contiguous", "channels_last"))
    if gamma is not None:
        made[0].weight[1] = gamma
    leaves = leaves_of(*made)
    assert gradcheck(lambda *v: pair(list(v)), leaves, fast_mode=True)
    assert gradgradcheck(lambda *v: pair(list(v)), leaves, fast_mode=True)


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("wanted", [(0,), (3,), (1, 5), (0, 4)])
def test_only_what_is_wanted(wanted: tuple[int, ...]) -> None:
    made = make((3, 6, 4, 4), torch.float32, ("contiguous", "contiguous"))
    leaves = leaves_of(*made)
    every = torch.autograd.grad(pair(leaves), leaves, made[0].grad)
    for i, leaf in enumerate(leaves):
        leaf.requires_grad_(i in wanted)
    got = torch.autograd.grad(pair(leaves), [leaves[i] for i in wanted], made[0].grad)
    assert all(torch.equal(g, every[i]) for g, i in zip(got, wanted, strict=True))


@pytest.mark.usefixtures("launches")
def test_running_statistics_move_as_in_two_calls_and_bits_repeat() -> None:
    leaves = leaves_of(*make((4, 3, 6, 7), torch.float32, ("contiguous", "contiguous")))
    leaves[3].data[0, 1, 2, 3] = float("nan")
    moved = []
    outputs = []
    for joined in (True, True, False):
        running = [torch.full((3,), value) for value in (0.5, 2.0, 0.25, 3.0)]
        first, second = branches(leaves, running)
        second = second._replace(momentum=torch.tensor(0.25), eps=1e-3)
        if joined:
            outputs.append(l1_batch_norm_pair(first, second, "relu", backend="triton"))
        else:
            residual = l1_batch_norm(*second, backend="triton")
            l1_batch_norm(*first, activation="relu", residual=residual, backend="triton")
        moved.append(torch.stack(running))
    assert outputs[0].grad_fn is not None
    assert "TrainPair" in outputs[0].grad_fn.name()
    assert torch.equal(outputs[0].nan_to_num(-1), outputs[1].nan_to_num(-1))
    assert torch.equal(moved[0], moved[1])
    assert torch.equal(moved[0], moved[2])
    assert moved[0][2:, 1].tolist() == [0.25, 3.0]


def test_saved_tensors_may_come_back_in_another_order_of_memory() -> None:
    made = make((3, 5, 4, 6), torch.float32, ("channels_last", "channels_last"))
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda v: v.contiguous().clone()):
        assert_judged(*made, "relu")


def test_an_edit_of_the_output_raises() -> None:
    made = make((4, 5, 4, 4), torch.float32, ("contiguous", "contiguous"))
    y = pair(leaves_of(*made))
    y += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(made[0].grad)


def test_a_batched_gradient_takes_the_formula() -> None:
    made = make((3, 4, 3, 3), torch.float64, ("contiguous", "contiguous"))
    leaves = leaves_of(*made)
    grads = torch.randn(3, *made[0].x.shape, dtype=torch.float64)
    y = pair(leaves)
    found = torch.autograd.grad(y, leaves, grads, is_grads_batched=True, retain_graph=True)
    for i, grad in enumerate(grads):
        want = torch.autograd.grad(y, leaves, grad, retain_graph=True)
        assert_close([v[i] for v in found], list(want), "double")
