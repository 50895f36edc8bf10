"""What generated blocks are made of."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F  # noqa: F401 - for the blocks
from torch import nn
from torch.utils.checkpoint import checkpoint  # noqa: F401 - for the blocks

SCALE = 0.5


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -0.5 * g


def helper(x):
    return x * SCALE


class Tail(nn.Module):
    """Ends in a layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.log = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), []

    def forward(self, x):
        y = self.conv(x)
        y = self.norm(y)
        return y


class Parts(nn.Module):
    factor = 1.0

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.act, self.six, self.tanh = nn.ReLU(), nn.ReLU6(), nn.Tanh()
        self.leaky = nn.LeakyReLU(0.1)
        self.inplace, self.same, self.drop = nn.ReLU(True), nn.Identity(), nn.Dropout(0.3)
        self.branch = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.whole = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))
        self.tail, self.last = Tail(), Tail()
        self.parts = nn.ModuleList([nn.BatchNorm2d(3), nn.ReLU()])
        self.flag, self.log, self.count, self.rng = True, [], 0, random.Random(0)

    def body(self, x):
        return self.act(self.bn(x))

    def note(self, x):
        self.log.append(int(self.bn.num_batches_tracked))
        self.log.append(float(self.other.running_mean.sum()))
        return x

    @property
    def looked(self):
        self.count += int(self.bn.num_batches_tracked) + int(self.other.num_batches_tracked)
        return self.act
