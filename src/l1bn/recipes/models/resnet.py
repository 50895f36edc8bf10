"""Residual networks (He et al., CVPR 2016, arXiv:1512.03385) with a norm factory."""

from __future__ import annotations

import torch
from torch import nn

from l1bn.recipes.models.norm import NormFactory


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class _Shortcut(nn.Sequential):
    """The projection of a block that changes the shape: a 1x1 convolution and a norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: NormFactory) -> None:
        super().__init__(_conv(inputs, outputs, 1, stride), norm(outputs, None))


def _shortcut(inputs: int, outputs: int, stride: int, norm: NormFactory) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return _Shortcut(inputs, outputs, stride, norm)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Args:
        inputs: Input channels.
        width: Channels of the block.
        stride: Stride of the first convolution.
        norm: Builds the normalization layers.

    Shape:
        - input: ``(N, inputs, H, W)``
        - output: ``(N, width, H / stride, W / stride)``
    """

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, 3, stride)
        self.norm1 = norm(width)
        self.conv2 = _conv(width, width, 3)
        self.norm2 = norm(width)
        self.shortcut = _shortcut(inputs, width, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        y = self.norm1(self.conv1(x))
        return self.norm2(self.conv2(y), self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 convolutions, and a shortcut.

    Args:
        inputs: Input channels.
        width: Channels of the 3x3 convolution; the output has four times as many.
        stride: Stride of the 3x3 convolution.
        norm: Builds the normalization layers.

    Shape:
        - input: ``(N, inputs, H, W)``
        - output: ``(N, 4 width, H / stride, W / stride)``
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, norm: NormFactory) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = _conv(inputs, width, 1)
        self.norm1 = norm(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.norm2 = norm(width)
        self.conv3 = _conv(width, outputs, 1)
        self.norm3 = norm(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        y = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        return self.norm3(self.conv3(y), self.shortcut(x))


class ResNet(nn.Module):
    """A stem, stages of residual blocks, global average pooling and a linear layer.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        depths: Blocks in each stage.
        widths: Width of each stage; every stage but the first halves the resolution.
        in_channels: Channels of the images.
        num_classes: Outputs.
        norm: Builds the normalization layers.
        large_stem: The ImageNet stem (7x7 stride 2, max pooling) instead of one 3x3 convolution.

    Shape:
        - input: ``(N, in_channels, H, W)``
        - output: ``(N, num_classes)``
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        in_channels: int,
        num_classes: int,
        norm: NormFactory,
        large_stem: bool = False,
    ) -> None:
        super().__init__()
        channels = widths[0]
        stem: list[nn.Module] = [
            _conv(in_channels, channels, 7 if large_stem else 3, 2 if large_stem else 1),
            norm(channels),
        ]
        if large_stem:
            stem.append(nn.MaxPool2d(3, 2, padding=1))
        self.stem = nn.Sequential(*stem)
        blocks: list[nn.Module] = []
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, width, stride, norm))
                channels = width * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


def _scaled(widths: tuple[int, ...], width: float) -> tuple[int, ...]:
    return tuple(max(1, round(w * width)) for w in widths)


def resnet_cifar(
    blocks: int, in_channels: int, num_classes: int, norm: NormFactory, width: float = 1.0
) -> ResNet:
    """Build the three-stage network of section 4.2: depth 6 * ``blocks`` + 2, widths 16, 32, 64.

    Unlike the paper's, the shortcuts that change the shape are projections.
    """
    widths = _scaled((16, 32, 64), width)
    return ResNet(BasicBlock, (blocks,) * 3, widths, in_channels, num_classes, norm)


def resnet18(
    in_channels: int, num_classes: int, norm: NormFactory, width: float, large_stem: bool
) -> ResNet:
    """Build ResNet-18, with the 3x3 stem for small images unless ``large_stem``."""
    widths = _scaled((64, 128, 256, 512), width)
    return ResNet(
        BasicBlock, (2, 2, 2, 2), widths, in_channels, num_classes, norm, large_stem=large_stem
    )


def resnet50(
    in_channels: int, num_classes: int, norm: NormFactory, width: float, large_stem: bool
) -> ResNet:
    """Build ResNet-50 (stride on the 3x3), with the small stem unless ``large_stem``."""
    widths = _scaled((64, 128, 256, 512), width)
    return ResNet(
        Bottleneck, (3, 4, 6, 3), widths, in_channels, num_classes, norm, large_stem=large_stem
    )
