"""Generator and critic of DCGAN (Radford et al., arXiv:1511.06434), with a norm factory.

WGAN-GP (Gulrajani et al., arXiv:1704.00028) uses the same two networks; its critic has no
statistics across samples, for its penalty is on the gradient of each sample by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from l1bn.recipes.gan.config import CriticNorm, GanConfig
from l1bn.recipes.models import NormFactory, norm_factory

SIZES = (16, 32, 64, 128)
"""Heights and widths [pixels] that the networks are made for."""

_WIDTH = 64
_SMALLEST = 4
_STD = 0.02

LayerNorm = Callable[[int], nn.Module]
"""Builds a norm without an activation."""


def _widths(image_size: int, width: float) -> list[int]:
    """Return the channels at image_size / 2, image_size / 4, ... 4 pixels."""
    count = (image_size // _SMALLEST).bit_length() - 1
    return [max(1, round(_WIDTH * width * 2**k)) for k in range(count)]


class Generator(nn.Module):
    """Transposed convolutions from noise to an image, each but the last with norm and ReLU.

    Args:
        latent: Size of the noise.
        out_channels: Channels of the images.
        image_size: Height and width, one of ``SIZES`` [pixels].
        norm: Builds the normalization layers.
        width: Factor on all widths.

    Shape:
        - input: ``(N, latent)``
        - output: ``(N, out_channels, image_size, image_size)``, in -1 to 1
    """

    def __init__(
        self,
        latent: int,
        out_channels: int,
        image_size: int,
        norm: NormFactory,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        widths = _widths(image_size, width)[::-1]
        channels = widths[0]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent, channels, _SMALLEST, bias=False),
            norm(channels),
        ]
        for outputs in widths[1:]:
            up = nn.ConvTranspose2d(channels, outputs, 4, stride=2, padding=1, bias=False)
            layers += [up, norm(outputs)]
            channels = outputs
        layers += [nn.ConvTranspose2d(channels, out_channels, 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the images."""
        return self.layers(noise[:, :, None, None])


class Critic(nn.Module):
    """Strided convolutions from an image to one number, with LeakyReLU of slope 0.2.

    It is DCGAN's discriminator, without the final sigmoid, and WGAN-GP's critic.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width, one of ``SIZES`` [pixels].
        norm: Builds the norms after all convolutions but the first and the last; None for none.
        width: Factor on all widths.

    Shape:
        - input: ``(N, in_channels, image_size, image_size)``
        - output: ``(N,)``
    """

    def __init__(
        self, in_channels: int, image_size: int, norm: LayerNorm | None, width: float = 1.0
    ) -> None:
        super().__init__()
        widths = _widths(image_size, width)
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, widths[0], 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        channels = widths[0]
        for outputs in widths[1:]:
            layers.append(nn.Conv2d(channels, outputs, 4, stride=2, padding=1, bias=norm is None))
            if norm is not None:
                layers.append(norm(outputs))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            channels = outputs
        layers.append(nn.Conv2d(channels, 1, _SMALLEST))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return a score for each image: high for real ones."""
        return self.layers(images).flatten()


def _layer_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(1, channels)


def _instance_norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True)


_SAMPLE_NORMS: dict[CriticNorm, LayerNorm | None] = {
    "layer": _layer_norm,
    "instance": _instance_norm,
    "identity": None,
}
"""Norms that keep the samples of a batch apart."""


@torch.no_grad()
def initialize_(model: nn.Module) -> None:
    """Draw weights as DCGAN does: normal with standard deviation 0.02, norms' weights around 1."""
    for module in model.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(weight, nn.Parameter):
            weight.normal_(0.0 if weight.dim() > 1 else 1.0, _STD)
        if isinstance(bias, nn.Parameter):
            bias.zero_()


def build_gan(config: GanConfig, channels: int, image_size: int) -> tuple[Generator, Critic]:
    """Build both networks; the same seed gives the same weights with either norm.

    Args:
        config: Model, norm, width and size of the noise.
        channels: Channels of the images.
        image_size: Height and width, one of ``SIZES`` [pixels].

    Raises:
        ValueError: If the size is none of these.
    """
    if image_size not in SIZES:
        raise ValueError(f"expected images of one of {SIZES} pixels, got {image_size}")
    factory = norm_factory(config.norm)
    critic_norm: LayerNorm | None = partial(factory, activation=None)
    settings = config.settings()
    if settings.critic_norm is not None:
        critic_norm = _SAMPLE_NORMS[settings.critic_norm]
    generator = Generator(settings.latent, channels, image_size, factory, config.width)
    critic = Critic(channels, image_size, critic_norm, config.width)
    initialize_(generator)
    initialize_(critic)
    return generator, critic
