"""VGG7, the plain network of the low-bit training literature (WAGE, arXiv:1802.04680)."""

from __future__ import annotations

import torch
from torch import nn

from l1bn.recipes.models.norm import NormFactory


class VGG7(nn.Module):
    """2x(128C3)-MP2-2x(256C3)-MP2-2x(512C3)-MP2-1024FC-classes, a norm after each convolution.

    Args:
        in_channels: Channels of the images.
        num_classes: Outputs.
        image_size: Height and width [pixels], at least 8.
        norm: Builds the normalization layers.
        width: Factor on all widths.

    Shape:
        - input: ``(N, in_channels, image_size, image_size)``
        - output: ``(N, num_classes)``

    Raises:
        ValueError: If ``image_size`` leaves nothing after three halvings.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        norm: NormFactory,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if image_size < 8:
            raise ValueError(f"expected images of at least 8 pixels for vgg7, got {image_size}")
        layers: list[nn.Module] = []
        channels = in_channels
        for base in (128, 256, 512):
            outputs = max(1, round(base * width))
            for _ in range(2):
                layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), norm(outputs)]
                channels = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden = max(1, round(1024 * width))
        self.head = nn.Sequential(
            nn.Linear(channels * (image_size // 8) ** 2, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.head(self.features(x).flatten(1))
