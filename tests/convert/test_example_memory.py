"""What the check by an example makes is freed."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import Tensor, nn

from l1bn import convert_

_MADE: list[weakref.ref[Tensor]] = []


class Noted(nn.Module):
    """Passes its input on, times a number, and notes what it made."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.ones((), requires_grad=True)
        _MADE.append(weakref.ref(y))
        return y


def test_no_activation_outlives_the_check() -> None:
    _MADE.clear()
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Noted(), nn.Conv2d(4, 4, 3), nn.Sigmoid()
    )
    convert_(model, example=torch.randn(2, 3, 8, 8))
    gc.collect()
    assert len(_MADE) > 4
    assert not [made for made in _MADE if made() is not None]
