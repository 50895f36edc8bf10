"""What the conversion tests share: models as PyTorch users write them, and their comparison."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from judge import assert_close


class BasicBlock(nn.Module):
    """The classic residual block: one ReLU used twice, an addition in place."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class SmallResNet(nn.Module):
    """Stem, three blocks, head, and control flow on the shape that nothing traces."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = BasicBlock(8, 16, 2)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < 8:
            x = F.interpolate(x, 8)
        x = self.layer2(self.layer1(self.stem(x)))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    """Convolution, normalization and whatever a test puts after it."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()


def warm(model: nn.Module, *shape: int) -> nn.Module:
    """Give a model parameters and statistics as after some training."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.uniform_(-0.5, 1.5)
                module.bias.normal_(0, 0.3)
        model.train()
        for _ in range(3):
            model(torch.randn(shape))
    return model.eval()


def outcome(model: nn.Module, *inputs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients in both modes, and the state after."""
    model = copy.deepcopy(model)
    results: list[Tensor] = []
    for mode in (True, False):
        model.train(mode)
        fresh = [copy.deepcopy(i) for i in inputs]
        leaves = [leaf.requires_grad_() for leaf in torch.utils._pytree.tree_leaves(fresh)]
        outputs = torch.utils._pytree.tree_leaves(model(*[_clones(i) for i in fresh]))
        weights = [torch.linspace(-1, 1, out.numel()).view_as(out) for out in outputs]
        sum((out * w).sum() for out, w in zip(outputs, weights, strict=True)).backward()
        results += [out.detach() for out in outputs]
        results += [p.grad for p in (*model.parameters(), *leaves) if p.grad is not None]
        model.zero_grad()
    return results, list(model.state_dict().values())


def _clones(value: Any) -> Any:
    # A forward may write into its input, and a leaf that requires grad cannot be written to.
    return torch.utils._pytree.tree_map_only(Tensor, lambda t: t * 1, value)


def assert_same(model: nn.Module, fused: nn.Module, *inputs: Any) -> None:
    wanted, got = outcome(model.double(), *inputs), outcome(fused.double(), *inputs)
    assert_close(got, wanted, "double")
