"""The variants of L1BN differ from it in just what their name says."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.accuracy.norm_variants import TAKEN_AWAY, ReluFirst, VariantNorm
from judge import apart
from l1bn import reference
from l1bn.nn import L1BatchNormAct2d


def skewed() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 3, 5, 5, generator=generator, dtype=torch.float64).exp()
    return x, torch.randn(x.shape, generator=generator, dtype=torch.float64)


def layer() -> L1BatchNormAct2d:
    return L1BatchNormAct2d(3, apply_act=False, eps=1e-3).double()


def run(norm, x, g):
    x = x.clone().requires_grad_()
    y = norm(x)
    return y.detach(), torch.autograd.grad(y, x, g)[0]


@pytest.mark.parametrize("variant", TAKEN_AWAY)
def test_against_l1bn(variant):
    x, g = skewed()
    y, dx = run(layer(), x, g)
    other_y, other_dx = run(VariantNorm(layer(), variant).double(), x, g)
    assert (apart(other_y, y) < 1e-12) == (variant == "no-mean-sign")
    assert apart(other_dx, dx) > 1e-4
    deviation = (x - x.mean((0, 2, 3), keepdim=True)).abs().mean((0, 2, 3))
    if variant == "no-scale":
        torch.testing.assert_close(other_y, y * reference.K)
    if variant == "eps-added":
        scale = math.sqrt(math.pi / 2) * deviation
        torch.testing.assert_close(other_y, y * (scale / (scale + 1e-3))[:, None, None])


def test_without_the_mean_of_the_signs_the_gradient_is_off_by_it():
    x, g = skewed()
    _, exact = run(layer(), x, g)
    _, other = run(VariantNorm(layer(), "no-mean-sign").double(), x, g)
    # Both are the same up to a constant per channel: mean(sgn) times k · dgamma / M / sigma.
    difference = (exact - other).transpose(0, 1).flatten(1)
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference))


def test_relu_first_normalizes_what_the_relu_leaves():
    x, _ = skewed()
    norm = L1BatchNormAct2d(3).double()
    y = ReluFirst(norm).double()(x - 2.0)
    expected = L1BatchNormAct2d(3, apply_act=False).double()(torch.relu(x - 2.0))
    torch.testing.assert_close(y, expected)
