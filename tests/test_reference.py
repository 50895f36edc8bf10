"""The judge itself: against autograd of the definition, and known values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from judge import assert_close
from l1bn import reference

ACTIVATIONS: dict[Any, Callable[[Tensor], Tensor]] = {
    None: lambda z: z,
    "relu": torch.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    ("leaky_relu", -0.5): lambda z: F.leaky_relu(z, -0.5),
    "elu": F.elu,
    ("elu", 0.3): lambda z: F.elu(z, 0.3),
    "silu": F.silu,
    "hardswish": F.hardswish,
    # PyTorch's own derivative is 1/6 in single precision, for float64 too.
    "hardsigmoid": lambda z: F.relu6(z + 3) / 6,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def definition(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    activation: str | None,
    eps: float,
) -> Tensor:
    """The definition, as short as it can be said; autograd does the rest."""
    view = (1, -1, *[1] * (x.dim() - 2))
    dims = [0, *range(2, x.dim())]
    d = x - x.mean(dims, keepdim=True)
    scale = (math.sqrt(math.pi / 2) * d.abs().mean(dims, keepdim=True)).clamp_min(math.sqrt(eps))
    z = weight.view(view) * d / scale + bias.view(view)
    z = z if residual is None else z + residual
    return ACTIVATIONS[activation](z)


def draw(shape: tuple[int, ...], kind: str) -> Tensor:
    x = torch.randn(shape, dtype=torch.float64)
    return {"gaussian": x, "relu": x.relu() + 0.01 * x, "exponential": x.exp()}[kind]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "relu", "exponential"])
@pytest.mark.parametrize("shape", [(9, 3), (4, 3, 7), (2, 3, 5, 4), (2, 3, 2, 3, 2), (1, 3, 5, 1)])
def test_closed_form_is_the_gradient_of_the_definition(
    shape: tuple[int, ...], kind: str, with_residual: bool, activation: str | None
) -> None:
    leaves = [draw(shape, kind), torch.randn(3).double() - 0.2, torch.randn(3).double()]
    if with_residual:
        leaves.append(torch.randn(shape, dtype=torch.float64))
    leaves = [v.requires_grad_() for v in leaves]
    x, weight, bias, *rest = leaves
    residual = rest[0] if rest else None
    grad = torch.randn(shape, dtype=torch.float64)

    y, _ = reference.forward(x, weight, bias, residual, activation)
    expected = definition(x, weight, bias, residual, activation, 1e-5)
    assert_close(y, expected, "double")

    wanted = torch.autograd.grad(expected, leaves, grad)
    got = reference.backward(grad, x, weight, bias, residual, activation)
    for have, want in zip([v for v in got if v is not None], wanted, strict=True):
        assert_close(have, want, "double")


@pytest.mark.parametrize(
    ("draws", "ratio"),
    [
        (lambda g, n: torch.randn(n, generator=g, dtype=torch.float64), 1.2533),
        (lambda g, n: torch.rand(n, generator=g, dtype=torch.float64), 1.1547),
        (lambda g, n: -torch.rand(n, generator=g, dtype=torch.float64).log(), 1.3591),
    ],
    ids=["gaussian", "uniform", "exponential"],
)
def test_deviation_has_the_known_ratio_to_the_standard_deviation(draws, ratio: float) -> None:
    x = draws(torch.Generator().manual_seed(1), 10**6).view(-1, 1)
    deviation = reference.statistics(x, 1e-5).deviation
    assert float(x.std() / deviation) * reference.K == pytest.approx(ratio, rel=5e-3)


def test_gaussian_scale_is_the_standard_deviation() -> None:
    x = 3 * torch.randn(10**6, 1, dtype=torch.float64)
    assert float(reference.statistics(x, 1e-5).scale) == pytest.approx(3, rel=3e-3)


def test_known_answer() -> None:
    # mean 2, |d| = 2, 1, 0, 1, 2: mean|d| = 1.2
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)
    stats = reference.statistics(x, 1e-5)
    assert float(stats.mean) == 2
    assert float(stats.scale) == pytest.approx(1.2 * math.sqrt(math.pi / 2), rel=1e-15)
    assert stats.sign.flatten().tolist() == [-1, -1, 1, 1, 1]


def test_running_update_is_unbiased_and_keeps_bad_channels() -> None:
    x = torch.tensor([[1.0, 1.0], [3.0, float("inf")]], dtype=torch.float64)
    stats = reference.statistics(x, 1e-5)
    mean, var = reference.running_update(
        torch.zeros(2).double(), torch.ones(2).double(), stats, 2, 0.1, 1e-5
    )
    # mean|d| = 1, so sigma^2 = pi/2, times M/(M-1) = 2
    assert mean.tolist() == [pytest.approx(0.2), 0.0]
    assert var.tolist() == [pytest.approx(0.9 + 0.1 * (math.pi / 2 - 1e-5) * 2), 1.0]


def test_recovered_normalized_input_is_exact_where_the_activation_passes() -> None:
    x, residual = torch.randn(2, 64, 4, dtype=torch.float64)
    weight, bias = torch.tensor([0.5, -1, 2, -0.01]).double(), torch.randn(4).double()
    y, stats = reference.forward(x, weight, bias, residual, "relu")
    normalized = (x - stats.mean) / stats.scale
    recovered = reference.recover_normalized(y, weight, bias, residual)
    assert (y > 0).any(0).all()
    assert_close(recovered[y > 0], normalized[y > 0], "double")
