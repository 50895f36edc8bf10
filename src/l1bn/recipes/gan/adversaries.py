"""A generator and a critic, and the steps that they take against each other."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from l1bn.recipes.data import ImageSet
from l1bn.recipes.gan.config import GanConfig
from l1bn.recipes.gan.images import to_bytes, to_float
from l1bn.recipes.gan.losses import LOSSES, CriticLoss, GeneratorLoss
from l1bn.recipes.gan.models import build_gan
from l1bn.recipes.gan.noise import Batches, stream
from l1bn.recipes.machine.device import pick_device
from l1bn.recipes.machine.parallel import data_parallel, synchronise_
from l1bn.recipes.machine.processes import Processes

LossColumn = Literal["critic_loss", "generator_loss", "real_score", "fake_score", "penalty"]
LOSS_COLUMNS: tuple[LossColumn, ...] = (
    "critic_loss",
    "generator_loss",
    "real_score",
    "fake_score",
    "penalty",
)
"""Losses of both networks, the critic's mean scores, and the penalty before it is weighted."""


class Adversaries:
    """Both networks and their optimizers.

    Args:
        config: What to train, with every default filled in.
        data: The images, of a size that the networks can make.
    """

    def __init__(self, config: GanConfig, data: ImageSet) -> None:
        self.config = config
        self.processes = Processes.current()
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
        self.processes.check_batch(self.batches.size)
        if config.sync_norm and self.processes.count > 1:
            synchronise_(self.generator, self.device)
            synchronise_(self.critic, self.device)
        loss = LOSSES[config.model]
        self._losses: dict[str, nn.Module] = {
            "critic": CriticLoss(self.critic, loss.critic, self.settings.penalty),
            "generator": GeneratorLoss(self.generator, self.critic, loss.generator),
        }
        self._shared = False

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
        self._share()
        random = stream(self.config.seed, "train", number)
        n_critic = self.settings.n_critic
        self.generator.train()
        self.critic.train()
        for index in range(number * n_critic, (number + 1) * n_critic):
            images = self.batches[index]
            part = images[self.processes.part(len(images))]
            real = to_float(part, self.device, self.config.channels_last)
            critic_loss, *rest = self._update_critic(real, random)
        generator_loss = self._update_generator(random)
        values = torch.stack([critic_loss, generator_loss, *rest])
        return self.processes.sum(*(values * (len(part) / self.batches.size)).tolist())

    def _share(self) -> None:
        """Before the first step in several processes: let the gradients of all come together."""
        if self.processes.count > 1 and not self._shared:
            self._losses = {n: data_parallel(loss) for n, loss in self._losses.items()}
            self._shared = True

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

    def _own(self, drawn: torch.Tensor) -> torch.Tensor:
        """Return this process' part of what was drawn for a whole batch."""
        return drawn[self.processes.part(self.batches.size)].to(self.device)

    def _update_critic(self, real: torch.Tensor, random: torch.Generator) -> list[torch.Tensor]:
        size = self.batches.size
        with torch.no_grad():
            fake = self.generator(self._own(self.noise(size, random)))
        mix = None
        if self.settings.penalty is not None:
            mix = self._own(torch.rand(size, generator=random))
        loss, *values = self._losses["critic"](real, fake, mix)
        self._descend("critic", loss, len(real))
        return [v.detach() for v in (loss, *values)]

    def _update_generator(self, random: torch.Generator) -> torch.Tensor:
        self.critic.requires_grad_(False)  # its gradients are not needed here
        noise = self._own(self.noise(self.batches.size, random))
        loss: torch.Tensor = self._losses["generator"](noise)
        self._descend("generator", loss, len(noise))
        self.critic.requires_grad_(True)
        return loss.detach()

    def _descend(self, name: str, loss: torch.Tensor, images: int) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel takes the mean over processes, whose parts may differ in size.
        (loss * (images / self.batches.size * self.processes.count)).backward()
        optimizer.step()
