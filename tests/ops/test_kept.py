"""What each mode keeps for backward: only what the gradients in demand need."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from judge import assert_close, lay_out
from l1bn.activation import Activation, keeps_output
from l1bn.functional import l1_batch_norm
from l1bn.ops import formula, mask
from l1bn.ops.records import Call, Running
from l1bn.ops.registry import registry

SHAPE = (4, 24, 8, 8)
ELEMENTS = 4 * 24 * 64
FULL = 4 * ELEMENTS
BITS = ELEMENTS // 8
FACTORS = 4 * 4 * 24  # a few numbers per channel


@pytest.fixture(params=["cpu", "eager", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """The backends whose table this is."""
    if request.param == "triton":
        pytest.importorskip("triton")
    if registry.get(request.param).unavailable():
        pytest.skip(f"backend {request.param} cannot run here")
    return request.param


def step(
    backend: str,
    wanted: str,
    activation: Activation | None,
    training: bool,
    layout: str = "contiguous",
    gamma: float | None = None,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What a call of a backend, or of the plain formula, keeps, parameters aside; its gradients."""
    torch.manual_seed(1)
    leaves = {
        "x": lay_out(torch.randn(SHAPE), layout),
        "weight": torch.rand(24) + 0.5,
        "bias": torch.randn(24) / 4,
        "residual": lay_out(torch.randn(SHAPE), layout),
    }
    if gamma is not None:
        leaves["weight"].fill_(gamma)
    names = wanted.split()
    for name in names:
        leaves[name].requires_grad_()
    residual = leaves["residual"] if "residual" in names else None
    mean, var = (None, None) if training else (torch.randn(24) / 4, torch.rand(24) + 0.5)
    saved: dict[int, Tensor] = {}

    def pack(v: Tensor) -> Tensor:
        saved.setdefault(v.untyped_storage().data_ptr(), v)
        return v.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.clone):
        x, weight, bias = (leaves[k] for k in ("x", "weight", "bias"))
        if backend != "formula":
            y = l1_batch_norm(
                x, mean, var, weight, bias, training,
                activation=activation, residual=residual, backend=backend,
            )  # fmt: skip
        elif mean is None or var is None:
            y = formula.train(x, residual, Call(weight, bias, activation, 1e-5))[0]
        else:
            call = Call(weight, bias, activation, 1e-5)
            y = formula.evaluate(x, residual, call, Running(mean, var))
        found = torch.autograd.grad(y, [leaves[k] for k in names], torch.randn_like(y))
    given = {leaves[k].untyped_storage().data_ptr() for k in ("weight", "bias")}
    kept = [v for at, v in saved.items() if at not in given]
    return kept, dict(zip(names, found, strict=True))


def size(kept: list[Tensor]) -> int:
    return sum(v.nbytes for v in kept)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("wanted", ["x", "x bias", "x bias residual", "bias", "residual"])
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_a_frozen_layer(backend: str, activation: str | None, wanted: str, layout: str) -> None:
    kept, found = step(backend, wanted, activation, False, layout)
    assert size(kept) <= FACTORS + (BITS if activation else 0)
    # The same through the whole gradient, γ's included, by PyTorch's own operators.
    _, want = step("eager", f"{wanted} weight", activation, False, layout)
    for name, value in found.items():
        assert_close(value, want[name])


def test_a_frozen_layer_that_learns_gamma(backend: str) -> None:
    assert size(step(backend, "x weight bias", None, False)[0]) <= FULL + FACTORS
    most = FULL if backend == "cpu" else 2 * FULL  # y alone, or x and y
    assert size(step(backend, "x weight bias", "relu", False)[0]) <= most + FACTORS


@pytest.mark.parametrize("wanted", ["bias", "residual", "bias residual"])
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_training_what_is_added(backend: str, activation: str | None, wanted: str) -> None:
    kept, found = step(backend, wanted, activation, True)
    assert size(kept) <= (BITS if activation else 0)
    _, want = step("eager", f"{wanted} weight", activation, True)
    for name, value in found.items():
        assert_close(value, want[name])


@pytest.mark.parametrize("wanted", ["weight", "weight bias", "weight bias residual"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_training_without_the_gradient_of_x(
    backend: str, activation: str | None, wanted: str
) -> None:
    kept, found = step(backend, wanted, activation, True)
    tensors = 1 + ("residual" in wanted) if backend != "eager" and activation else 2
    assert size(kept) <= tensors * FULL + FACTORS
    _, want = step("eager", f"{wanted} x", activation, True)
    for name, value in found.items():
        assert_close(value, want[name])


def test_training(backend: str) -> None:
    assert size(step(backend, "x weight bias", None, True)[0]) <= FULL + FACTORS
    assert size(step(backend, "x weight bias", "relu", True)[0]) <= FULL + BITS + FACTORS


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [("leaky_relu", 0.2), "elu", "silu", "hardswish", "gelu"])
def test_an_activation_that_bends(backend: str, activation: Activation, training: bool) -> None:
    """One tensor, where PyTorch's operations keep the norm's input and the activation's."""
    if backend == "triton":
        pytest.skip("leaves it to PyTorch")
    if backend == "eager" and not training:
        pytest.skip("evaluates by PyTorch's operations")
    kept, found = step(backend, "x weight bias", activation, training)
    bits = BITS if training and backend == "cpu" and keeps_output(activation) else 0
    assert size(kept) <= FULL + bits + FACTORS
    _, want = step("formula", "x weight bias", activation, training)
    for name, value in found.items():
        assert_close(value, want[name], "cancelling")
    kept, found = step(backend, "x weight bias residual", activation, training)
    assert size(kept) <= 2 * FULL + bits + FACTORS
    _, want = step("formula", "x weight bias residual", activation, training)
    for name, value in found.items():
        assert_close(value, want[name], "cancelling")


@pytest.mark.parametrize("training", [True, False])
def test_an_activation_that_bends_where_x_cannot_be_recovered(backend: str, training: bool) -> None:
    if backend != "cpu":
        pytest.skip("the others do not read x off the output of such an activation")
    kept, _ = step(backend, "x weight bias", ("leaky_relu", 0.2), training, gamma=0.0)
    assert size(kept) <= FULL + FACTORS


def test_a_second_derivative_of_a_frozen_layer(backend: str) -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    state = torch.zeros(4).double(), torch.ones(4).double()

    def call(x: Tensor, bias: Tensor) -> Tensor:
        return l1_batch_norm(x, *state, None, bias, activation="relu", backend=backend)

    assert torch.autograd.gradcheck(call, (x, bias))
    assert torch.autograd.gradgradcheck(call, (x, bias))


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("wanted", ["weight bias", "bias residual", "weight residual"])
def test_a_second_derivative_without_the_gradient_of_x(
    backend: str, activation: str | None, wanted: str
) -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    leaves = {"weight": torch.rand(4) + 0.5, "bias": torch.randn(4) / 4, "residual": x.roll(1)}
    leaves = {name: v.double() for name, v in leaves.items()}
    names = wanted.split()

    def call(*values: Tensor) -> Tensor:
        given = leaves | dict(zip(names, values, strict=True))
        return l1_batch_norm(
            x, None, None, given["weight"], given["bias"], True,
            activation=activation, residual=given["residual"], backend=backend,
        )  # fmt: skip

    inputs = [leaves[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (2, 3, 4, 5), (0, 3), (2, 17, 3)])
def test_bits_of_a_mask(shape: tuple[int, ...]) -> None:
    for layout in ("contiguous", "channels_last", "strided", "transposed"):
        some = lay_out((torch.randn(shape) > 0).float(), layout) > 0
        bits, places = mask.pack(some)
        assert bits.nbytes == (some.numel() + 7) // 8
        assert torch.equal(mask.unpack(bits, places), some)
