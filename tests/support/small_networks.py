"""Small networks and real images on which devices are held to Python."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import l1bn
from l1bn import quantized

CLASSES = 10
EXPONENT = -5


class Block(nn.Module):
    """A basic block of ResNet-8: two convolutions, a shortcut with its own where sizes change."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = l1bn.L1BatchNormAct2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = l1bn.L1BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            conv = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, l1bn.L1BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        return torch.relu(y + self.shortcut(x))


def resnet8(width: int = 6, channels: int = 1, classes: int = CLASSES) -> nn.Module:
    """ResNet-8 of MLPerf Tiny, with L1BN; its width there is 16."""
    w = width
    return nn.Sequential(
        nn.Conv2d(channels, w, 3, 1, 1, bias=False),
        l1bn.L1BatchNormAct2d(w),
        Block(w, w, 1),
        Block(w, 2 * w, 2),
        Block(2 * w, 4 * w, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * w, classes),
    )


def lenet() -> nn.Module:
    """Convolutions with a bias, overlapping and touching maxima, three linear layers, no norm."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 10, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 1, 1),
        nn.Flatten(),
        nn.Linear(160, 24),
        nn.ReLU(),
        nn.Linear(24, CLASSES),
    )


def separable(channels: int) -> list[nn.Module]:
    """A convolution of each channel alone, then one of each pixel alone."""
    return [
        nn.Conv2d(channels, channels, 3, padding="same", groups=channels, bias=False),
        l1bn.L1BatchNormAct2d(channels),
        nn.Conv2d(channels, channels, 1, bias=False),
        l1bn.L1BatchNormAct2d(channels),
    ]


def dscnn(width: int = 6, blocks: int = 4) -> nn.Module:
    """DS-CNN of MLPerf Tiny for images of 8x8 pixels: uneven windows, dropout, separable blocks."""
    return nn.Sequential(
        nn.ZeroPad2d((1, 1, 4, 5)),
        nn.Conv2d(1, width, (10, 4), (1, 2), bias=False),
        l1bn.L1BatchNormAct2d(width),
        nn.Dropout(0.2),
        *(layer for _ in range(blocks) for layer in separable(width)),
        nn.Dropout(0.4),
        nn.AvgPool2d((8, 4)),
        nn.Flatten(),
        nn.Linear(width, CLASSES),
    )


def uneven() -> nn.Module:
    """Windows that differ down and across: strides, padding, dilation, groups; ReLU6."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, 1, (2, 1), (2, 1)),
        nn.ReLU6(),
        nn.Dropout2d(0.25),
        nn.Conv2d(6, 8, (3, 2), (1, 2), (1, 0), (1, 2), groups=2),
        l1bn.L1BatchNorm2d(8),
        nn.ReLU6(),
        nn.MaxPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True),
        nn.MaxPool2d((2, 1), 1, 0, (2, 1)),
        nn.AvgPool2d((1, 2)),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.LazyLinear(CLASSES),
    )


def odd() -> nn.Module:
    """What the other two leave out: a norm of its own, of features, an average of windows."""
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, 2, 2),
        l1bn.L1BatchNorm2d(5),
        nn.ReLU(),
        nn.AvgPool2d(2),
        l1bn.L1BatchNormAct2d(5),
        nn.Flatten(),
        nn.Identity(),
        nn.Linear(20, 12),
        l1bn.L1BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, CLASSES),
    )


class Branches(nn.Module):
    """Channels of several layers side by side, the input's own among them, with other exponents."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, 3, 3, padding=1)
        self.two = nn.Sequential(
            nn.Conv2d(channels, 2, 1, bias=False), l1bn.L1BatchNorm2d(2), nn.Hardswish()
        )
        self.mean = nn.AvgPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), x, self.two(x), self.mean(x)], 1)


def arranged() -> nn.Module:
    """Hardswish, joined channels, enlarged images, padding of its own, overlapping averages."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1),
        nn.Hardswish(),
        Branches(4),
        nn.Upsample(scale_factor=(2, 3)),
        nn.ZeroPad2d((1, -2, 2, 0)),
        nn.AvgPool2d((3, 4), (2, 3), (1, 2)),
        nn.Hardswish(),
        nn.ConstantPad2d((-1, 0, 0, 1), 0.0),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    )


@cache
def _digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None], torch.tensor(data.target)


def digits(first: int, count: int) -> tuple[quantized.QTensor, Tensor]:
    """Real digits of 8x8 pixels, as images of −1 to 1, and their classes."""
    images, labels = (part[first : first + count] for part in _digits())
    return quantized.quantize(images / 8 - 1, EXPONENT), labels


def trained(model: nn.Module, config: quantized.Config | None = None) -> quantized.IntegerNetwork:
    """The integer form of a network, after a few steps."""
    network = quantized.prepare(model, config)
    optimizer = quantized.SGD(network, lr=0.05)
    for step in range(3):
        images, labels = digits(1000 + 32 * step, 32)
        take_step(network, optimizer, images, labels)
    return network


def take_step(
    network: quantized.IntegerNetwork,
    optimizer: quantized.SGD,
    images: quantized.QTensor,
    labels: Tensor,
    smoothing: float = 0.0,
) -> Tensor:
    """One step of training; the logits before it."""
    logits = network(images)
    network.backward(quantized.cross_entropy(network, logits, labels, smoothing).error)
    optimizer.step()
    return logits.values
