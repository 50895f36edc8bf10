"""Statistics that leave padding out: those of the elements that count, alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import l1bn
from judge import assert_close
from l1bn import l1_batch_norm, reference


@pytest.fixture
def padded() -> tuple[Tensor, Tensor]:
    """Sequences of 5, 3 and 1 elements, padded to 5 with values that must not matter."""
    x = torch.randn(3, 4, 5, dtype=torch.float64) * 2 + 1
    mask = torch.arange(5) < torch.tensor([5, 3, 1]).view(3, 1, 1)
    return torch.where(mask, x, float("nan")), mask


def counted(x: Tensor, mask: Tensor) -> Tensor:
    """The elements that count, as a batch of (M, C)."""
    return x.movedim(1, -1)[mask.squeeze(1)]


@pytest.mark.parametrize("activation", [None, "relu"])
def test_output_statistics_and_gradients_are_those_of_the_elements_alone(
    padded: tuple[Tensor, Tensor], activation: str | None
) -> None:
    x, mask = padded
    weight, bias = torch.rand(4).double() + 0.5, torch.randn(4).double()
    dense = counted(x, mask)
    want, stats = reference.forward(dense, weight, bias, activation=activation)
    grad = torch.randn_like(want)
    gradients = reference.backward(grad, dense, weight, bias, activation=activation)

    x = x.nan_to_num(100.0).requires_grad_()
    weight.requires_grad_(), bias.requires_grad_()
    mean, var = torch.zeros(4).double(), torch.ones(4).double()
    y = l1_batch_norm(x, mean, var, weight, bias, True, 0.1, 1e-5, activation=activation, mask=mask)
    torch.testing.assert_close(counted(y, mask), want)
    counted(y, mask).backward(grad)
    torch.testing.assert_close(counted(x.grad, mask), gradients.input)
    torch.testing.assert_close(weight.grad, gradients.weight)
    torch.testing.assert_close(bias.grad, gradients.bias)
    assert bool((counted(x.grad, ~mask) == 0).all())
    moved = reference.running_update(
        torch.zeros(4).double(), torch.ones(4).double(), stats, len(dense), 0.1, 1e-5
    )
    torch.testing.assert_close((mean, var), moved)


def test_nan_in_the_padding_reaches_nothing_that_counts(padded: tuple[Tensor, Tensor]) -> None:
    x, mask = padded
    layer = l1bn.L1BatchNorm1d(4).double()
    assert bool(counted(layer(x, mask), mask).isfinite().all())
    assert bool(layer.running_var.isfinite().all())
    assert int(layer.num_batches_tracked) == 1
    # In evaluation there is nothing to leave out.
    clean = x.nan_to_num(0.0)
    torch.testing.assert_close(layer.eval()(clean, mask), layer(clean))


def test_a_whole_mask_changes_nothing_and_an_empty_one_keeps_the_statistics() -> None:
    x = torch.randn(3, 4, 5).double()
    whole, none = torch.ones(3, 1, 5).bool(), torch.zeros(1, 1, 1).bool()
    layer, plain = l1bn.L1BatchNorm1d(4).double(), l1bn.L1BatchNorm1d(4).double()
    torch.testing.assert_close(layer(x, whole), plain(x))
    before = layer.running_var.clone()
    assert bool(layer(x, none).isfinite().all())
    assert_close(layer.running_var, before, "exact")


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (torch.ones(3, 5).bool(), r"broadcasts to \(3, 1, 5\).*got \(3, 5\).*unsqueeze"),
        (torch.ones(3, 4, 5).bool(), r"got \(3, 4, 5\)"),
        (torch.ones(3, 1, 5), r"a mask of torch.bool on cpu, got torch.float32"),
    ],
)
def test_bad_masks(mask: Tensor, text: str) -> None:
    layer = l1bn.L1BatchNorm1d(4)
    with pytest.raises(ValueError, match=text):
        layer(torch.randn(3, 4, 5), mask)
    assert int(layer.num_batches_tracked) == 0
