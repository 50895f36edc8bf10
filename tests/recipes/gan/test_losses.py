"""The losses against their formulas, and the penalty's second derivatives through L1BN."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from judge import assert_close
from l1bn import reference
from l1bn.nn import L1BatchNormAct2d
from l1bn.recipes.gan.losses import LOSSES, gradient_penalty
from l1bn.recipes.gan.models import Critic
from l1bn.recipes.models import norm_factory


def test_cross_entropy_is_that_of_probabilities() -> None:
    real, fake = torch.randn(2, 5)
    loss = LOSSES["dcgan"]
    expected = F.binary_cross_entropy(real.sigmoid(), torch.ones(5)) + F.binary_cross_entropy(
        fake.sigmoid(), torch.zeros(5)
    )
    torch.testing.assert_close(loss.critic(real, fake), expected)
    torch.testing.assert_close(
        loss.generator(fake), F.binary_cross_entropy(fake.sigmoid(), torch.ones(5))
    )
    assert float(loss.critic(torch.zeros(3), torch.zeros(3))) == pytest.approx(2 * math.log(2))


def test_the_wasserstein_losses_are_differences_of_means() -> None:
    loss = LOSSES["wgan-gp"]
    real, fake = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 2.0])
    assert float(loss.critic(real, fake)) == 1.5 - 4.0
    assert float(loss.generator(fake)) == -1.5


class Slope(nn.Module):
    """Scores with one gradient everywhere."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.slope = nn.Parameter(slope)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.slope).flatten(1).sum(1)


def test_the_penalty_of_a_linear_critic() -> None:
    slope = torch.randn(1, 2, 2)
    critic = Slope(slope)
    penalty = gradient_penalty(critic, *torch.randn(2, 3, 1, 2, 2), torch.rand(3))
    torch.testing.assert_close(penalty.detach(), (slope.norm() - 1) ** 2)
    penalty.backward()
    torch.testing.assert_close(critic.slope.grad, 2 * (slope.norm() - 1) * slope / slope.norm())


def test_the_penalty_is_taken_between_the_images() -> None:
    seen: list[Tensor] = []

    class Recorder(Slope):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return super().forward(x)

    real, fake = torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    gradient_penalty(Recorder(torch.ones(1, 2, 2)), real, fake, torch.tensor([0.0, 0.25, 1.0]))
    assert seen[0][:, 0, 0, 0].tolist() == [0.0, 0.25, 1.0]


class ReferenceNorm(nn.Module):
    """L1BN from the judge's own operations, for autograd to differentiate as often as it likes."""

    def __init__(self, layer: L1BatchNormAct2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps

    def forward(self, x: Tensor) -> Tensor:
        return reference.forward(x, self.weight, self.bias, eps=self.eps)[0]


def critic_through_l1bn(backend: str) -> Critic:
    """A small critic with L1BN, which WGAN-GP would not use, in float64 and on one backend."""
    factory = norm_factory("l1")
    critic = Critic(1, 16, lambda c: factory(c, None), width=1 / 32).double()
    for module in critic.modules():
        if isinstance(module, L1BatchNormAct2d):
            module.backend = backend
            nn.init.normal_(module.weight, 1.0, 0.3)
    return critic


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    real, fake = torch.rand(2, 3, 1, 16, 16, dtype=torch.float64)
    return real, fake, torch.rand(3, dtype=torch.float64)


def gradients(critic: Critic, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    critic.zero_grad()
    gradient_penalty(critic, *batch).backward()
    return {n: p.grad for n, p in critic.named_parameters() if p.grad is not None}


def test_a_penalty_through_l1bn_has_the_gradients_of_finite_differences(
    backend: str, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    critic = critic_through_l1bn(backend)
    got = gradients(critic, batch)
    step = 1e-6
    for name, parameter in critic.named_parameters():
        if name not in got:
            continue
        direction = torch.randn_like(parameter)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
            ends.append(float(gradient_penalty(critic, *batch).detach()))
            with torch.no_grad():
                parameter -= sign * step * direction
        expected = (ends[0] - ends[1]) / (2 * step)
        assert float((got[name] * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-8)
    assert any(".weight" in name and g.dim() == 1 for name, g in got.items())


def test_a_penalty_through_l1bn_agrees_with_the_reference(
    backend: str, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    critic = critic_through_l1bn(backend)
    got = gradients(critic, batch)
    for name, module in list(critic.named_modules()):
        if isinstance(module, L1BatchNormAct2d):
            critic.set_submodule(name, ReferenceNorm(module))
    expected = gradients(critic, batch)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(got[name], value, "double")
