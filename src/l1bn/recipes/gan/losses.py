"""The adversarial losses of DCGAN and WGAN-GP, and the gradient penalty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class AdversarialLoss:
    """The two sides of a game.

    Attributes:
        critic: Loss of the critic, from its scores of real and of generated images.
        generator: Loss of the generator, from the critic's scores of its images.
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def _cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def _non_saturating(fake: Tensor) -> Tensor:
    return F.softplus(-fake).mean()


def _wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    return fake.mean() - real.mean()


LOSSES = {
    "dcgan": AdversarialLoss(_cross_entropy, _non_saturating),
    "wgan-gp": AdversarialLoss(_wasserstein, lambda fake: -fake.mean()),
}
"""Losses by model: binary cross-entropy on logits with the non-saturating generator (Goodfellow et
al., arXiv:1406.2661), and the Wasserstein distance's dual form (arXiv:1704.00028, equation 3)."""


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Return the mean of (norm of the critic's gradient - 1)², differentiable in its weights.

    The gradient is taken at points between real and generated images, one for each pair. If the
    critic normalizes across samples, this differentiates through its norm twice; L1BN's second
    derivative is exact, but the method asks for a critic that keeps samples apart.

    Source: Gulrajani et al., arXiv:1704.00028.

    Args:
        critic: Gives one score for each image.
        real: Real images.
        fake: As many generated images.
        mix: Position of each point, 0 at the generated image and 1 at the real one.

    Shape:
        - real, fake: ``(N, C, H, W)``
        - mix: ``(N,)``
        - output: ``()``
    """
    points = torch.lerp(fake.detach(), real, mix.view(-1, 1, 1, 1)).requires_grad_()
    scores = critic(points)
    (gradient,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


class CriticLoss(nn.Module):
    """A critic's whole loss as one module, as DistributedDataParallel needs it.

    Args:
        critic: The critic.
        loss: Its loss, from its scores of real and of generated images.
        penalty: Weight of the gradient penalty, None for none.

    Shape:
        - real, fake: (N, C, H, W)
        - mix: (N,), see ``gradient_penalty``
        - output: loss, mean score of real and of generated images, penalty: all ()
    """

    def __init__(
        self, critic: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], penalty: float | None
    ) -> None:
        super().__init__()
        self.critic = critic
        self._loss, self._penalty = loss, penalty

    def forward(self, real: Tensor, fake: Tensor, mix: Tensor | None) -> tuple[Tensor, ...]:
        """Return the loss, and what it is made of."""
        real_scores, fake_scores = self.critic(real), self.critic(fake)
        loss = self._loss(real_scores, fake_scores)
        penalty = torch.zeros_like(loss)
        if self._penalty is not None and mix is not None:
            penalty = gradient_penalty(self.critic, real, fake, mix)
            loss = loss + self._penalty * penalty
        return loss, real_scores.mean(), fake_scores.mean(), penalty


class GeneratorLoss(nn.Module):
    """A generator's whole loss as one module; the critic only looks on.

    Args:
        generator: The generator, the only part whose gradients are shared.
        critic: The critic.
        loss: The generator's loss, from the critic's scores.

    Shape:
        - noise: (N, latent)
        - output: ()
    """

    def __init__(
        self, generator: nn.Module, critic: nn.Module, loss: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.generator = generator
        self._critic = (critic,)  # in a tuple, so that it is no part of this module
        self._loss = loss

    def forward(self, noise: Tensor) -> Tensor:
        """Return the loss."""
        return self._loss(self._critic[0](self.generator(noise)))
