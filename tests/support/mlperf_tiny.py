"""The four networks of MLPerf Tiny (Banbury et al., arXiv:2106.07597), in plain torch.nn."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


def conv_norm(inputs: int, outputs: int, kernel=3, stride=1, padding=0, groups=1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_norm(inputs, outputs, 3, stride, 1)
        self.second = conv_norm(outputs, outputs, 3, 1, 1)
        self.shortcut = None if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(F.relu(self.first(x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet8(nn.Module):
    """Image classification: 32 x 32 pixels, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 16, 3, 1, 1)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(self.blocks(F.relu(self.stem(x))), 8)
        return self.head(x.view(x.size(0), -1))


class MobileNetV1(nn.Module):
    """Visual wake words: 96 x 96 pixels, a person or none; width 1/4, padding as Keras has it."""

    STAGES = (
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (128, 2),
        *[(128, 1)] * 5,
        (256, 2),
        (256, 1),
    )

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = int(8 * width)
        layers: list[nn.Module] = [
            nn.ZeroPad2d((0, 1, 0, 1)),
            conv_norm(3, channels, 3, 2),
            nn.ReLU6(),
        ]
        for outputs, stride in self.STAGES:
            outputs = int(outputs * width)
            if stride == 2:
                layers.append(nn.ZeroPad2d((0, 1, 0, 1)))
            depthwise = conv_norm(channels, channels, 3, stride, 1 if stride == 1 else 0, channels)
            layers += [depthwise, nn.ReLU6(), conv_norm(channels, outputs, 1), nn.ReLU6()]
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean([2, 3]))


def separable(channels: int) -> nn.Sequential:
    depthwise = conv_norm(channels, channels, 3, 1, "same", channels)
    return nn.Sequential(depthwise, nn.ReLU(), conv_norm(channels, channels, 1), nn.ReLU())


class DSCNN(nn.Module):
    """Keyword spotting: 49 windows of 10 coefficients, 12 words."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((1, 1, 4, 5))
        self.stem = conv_norm(1, channels, (10, 4), (2, 2))
        self.blocks = nn.Sequential(*(separable(channels) for _ in range(4)))
        self.head = nn.Linear(channels, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(F.relu(self.stem(self.pad(x))), 0.2, self.training)
        x = F.avg_pool2d(F.dropout(self.blocks(x), 0.4, self.training), (25, 5))
        return self.head(torch.flatten(x, 1))


class Autoencoder(nn.Sequential):
    """Anomaly detection: five frames of 128 bands, and their reconstruction."""

    def __init__(self, inputs: int = 640, width: int = 128, code: int = 8) -> None:
        layers: list[nn.Module] = []
        sizes = [inputs, *[width] * 4, code, *[width] * 4]
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
        super().__init__(*layers, nn.Linear(sizes[-1], inputs))
