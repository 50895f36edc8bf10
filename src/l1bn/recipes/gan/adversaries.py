"""A generator and a critic, and the steps that they take against each other."""

from __future__ import annotations

import torch
from torch import nn

from l1bn.recipes.classification import pick_device
from l1bn.recipes.data import ImageSet
from l1bn.recipes.gan.config import GanConfig
from l1bn.recipes.gan.images import to_bytes, to_float
from l1bn.recipes.gan.losses import LOSSES, gradient_penalty
from l1bn.recipes.gan.models import build_gan
from l1bn.recipes.gan.noise import Batches, stream

LOSS_COLUMNS = ("critic_loss", "generator_loss", "real_score", "fake_score", "penalty")
"""Losses of both networks, the critic's mean scores, and the penalty before it is weighted."""


class Adversaries:
    """Both networks and their optimizers.

    Args:
        config: What to train, with every default filled in.
        data: The images, of a size that the networks can make.
    """

    def __init__(self, config: GanConfig, data: ImageSet) -> None:
        self.config = config
        self.device = pick_device(config.device)
        self.settings = config.settings()
        torch.manual_seed(config.seed)
        networks = build_gan(config, data.train.images.shape[1], data.image_size)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.generator, self.critic = (
            network.to(self.device, memory_format=layout)  # type: ignore[call-overload]
            for network in networks
        )
        self.optimizers = {
            "generator": self._optimizer(self.generator),
            "critic": self._optimizer(self.critic),
        }
        self.batches = Batches(data.train, self.settings.batch_size, config.seed)
        self._loss = LOSSES[config.model]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Both networks by name."""
        return {"generator": self.generator, "critic": self.critic}

    def step(self, number: int) -> list[float]:
        """Take one step of the generator, after those of the critic.

        Args:
            number: Which step of the run; decides batches and noise.

        Returns:
            The values of ``LOSS_COLUMNS``, the critic's from its last step.
        """
        random = stream(self.config.seed, "train", number)
        n_critic = self.settings.n_critic
        self.generator.train()
        self.critic.train()
        for index in range(number * n_critic, (number + 1) * n_critic):
            images = to_float(self.batches[index], self.device, self.config.channels_last)
            critic_loss, *rest = self._update_critic(images, random)
        generator_loss = self._update_generator(len(images), random)
        return torch.stack([critic_loss, generator_loss, *rest]).tolist()

    @torch.no_grad()
    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        """Generate images in evaluation mode, so that each depends on its own noise only.

        Shape:
            - noise: ``(N, latent)``
            - output: ``(N, C, H, W)``, uint8
        """
        self.generator.eval()
        return to_bytes(self.generator(noise.to(self.device)))

    def _optimizer(self, network: nn.Module) -> torch.optim.Adam:
        rate, betas = self.settings.lr, self.settings.betas
        return torch.optim.Adam(network.parameters(), lr=rate, betas=betas, fused=True)

    def noise(self, count: int, random: torch.Generator) -> torch.Tensor:
        """Draw what so many images are generated from."""
        return torch.randn(count, self.settings.latent, generator=random)

    def _update_critic(self, real: torch.Tensor, random: torch.Generator) -> list[torch.Tensor]:
        with torch.no_grad():
            fake = self.generator(self.noise(len(real), random).to(self.device))
        real_scores, fake_scores = self.critic(real), self.critic(fake)
        loss = self._loss.critic(real_scores, fake_scores)
        penalty = torch.zeros_like(loss)
        if self.settings.penalty is not None:
            mix = torch.rand(len(real), generator=random).to(self.device)
            penalty = gradient_penalty(self.critic, real, fake, mix)
            loss = loss + self.settings.penalty * penalty
        self._descend("critic", loss)
        values = (loss, real_scores.mean(), fake_scores.mean(), penalty)
        return [v.detach() for v in values]

    def _update_generator(self, count: int, random: torch.Generator) -> torch.Tensor:
        self.critic.requires_grad_(False)  # its gradients are not needed here
        scores = self.critic(self.generator(self.noise(count, random).to(self.device)))
        loss = self._loss.generator(scores)
        self._descend("generator", loss)
        self.critic.requires_grad_(True)
        return loss.detach()

    def _descend(self, name: str, loss: torch.Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
