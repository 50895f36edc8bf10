"""Which residuals become part of a call: those that their producer keeps anyway."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import l1bn
from judge import assert_close
from l1bn.convert import convert_

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


class First(nn.Module):
    """Gives what is added."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))


class Second(nn.Module):
    """Adds it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)) + residual)


def pair(first: nn.Module) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(2)
    second = Second()
    convert_(first)
    convert_(second)
    return first, second


def frozen() -> nn.Module:
    """In evaluation, γ and β constant: it keeps one bit per element, and no output."""
    first = First().eval()
    return first.requires_grad_(False)


def act2d() -> nn.Module:
    return l1bn.L1BatchNormAct2d(3)


@pytest.mark.parametrize(("make", "kept"), [(First, True), (act2d, True), (frozen, False)])
@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_it_is_taken_where_its_producer_keeps_it(
    make: Any, kept: bool, backend: str, calls: list[tuple[Any, bool]]
) -> None:
    first, second = pair(make())
    modules: list[Any] = [*first.modules(), *second.modules()]
    for module in modules:
        if hasattr(module, "backend"):
            module.backend = backend
    calls.clear()
    residual = first(X.clone().requires_grad_())
    second(X, residual)
    assert calls == [("relu", False), ("relu", True) if kept else (None, False)]


def test_what_nobody_keeps_may_be_edited_in_place() -> None:
    """A frozen block's output, edited after it was added, changes nothing and raises nothing."""
    found = []
    for fuse in (True, False):
        torch.manual_seed(2)
        first, second = frozen(), Second()
        convert_(first, fuse=fuse)
        convert_(second, fuse=fuse)
        x = X.clone().requires_grad_()
        residual = first(x)
        y = second(X, residual)
        if fuse:  # otherwise ReLU keeps it
            residual.mul_(2)
        y.square().sum().backward()
        found.append((y.detach(), x.grad, second.conv.weight.grad))
    assert_close(*found)
