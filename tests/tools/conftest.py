"""Fixtures: a small network with BN and with L1BN, and libraries of the field."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import l1bn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.block = Block()
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(self.bn(self.stem(x)).relu())
        return self.head(x.mean((2, 3)))


@pytest.fixture
def bn_net() -> nn.Module:
    torch.manual_seed(1)
    net = Net()
    for _ in range(3):  # running statistics that are not those of a new layer
        net(torch.randn(8, 3, 8, 8) * 2 + 1)
    return net


@pytest.fixture
def l1_net(bn_net: nn.Module) -> nn.Module:
    net = copy.deepcopy(bn_net)
    l1bn.convert_(net)
    return net


@pytest.fixture
def batch() -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(6, 3, 8, 8)


LAYERS = 3
