"""A depthwise-separable network in the manner of MobileNet (Howard et al., arXiv:1704.04861)."""

from __future__ import annotations

import torch
from torch import nn

from l1bn.recipes.models.norm import NormFactory

_STAGES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1))
"""Output channels and stride of each separable convolution."""


class SeparableConv(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each with norm and ReLU6.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stride: Stride of the depthwise convolution.
        norm: Builds the normalization layers.

    Shape:
        - input: ``(N, inputs, H, W)``
        - output: ``(N, outputs, H / stride, W / stride)``
    """

    def __init__(self, inputs: int, outputs: int, stride: int, norm: NormFactory) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.norm1 = norm(inputs, "relu6")
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm2 = norm(outputs, "relu6")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        return self.norm2(self.pointwise(self.norm1(self.depthwise(x))))


class MobileNet(nn.Module):
    """A 3x3 stem and eight separable convolutions; every norm is followed by ReLU6.

    Args:
        in_channels: Channels of the images.
        num_classes: Outputs.
        norm: Builds the normalization layers.
        width: Factor on all widths.
        large_stem: Stride 2 in the stem, for images of 64 pixels and more.

    Shape:
        - input: ``(N, in_channels, H, W)``
        - output: ``(N, num_classes)``
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        norm: NormFactory,
        width: float = 1.0,
        large_stem: bool = False,
    ) -> None:
        super().__init__()
        channels = max(1, round(32 * width))
        stride = 2 if large_stem else 1
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            norm(channels, "relu6"),
        )
        blocks: list[nn.Module] = []
        for base, stride in _STAGES:
            outputs = max(1, round(base * width))
            blocks.append(SeparableConv(channels, outputs, stride, norm))
            channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))
