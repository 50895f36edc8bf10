"""nn.Sequential: its own loop, over the live modules."""

from __future__ import annotations

from torch import nn

from l1bn.convert.fusion.decide import Frame


def forward(self: nn.Sequential, input: object, *, _l1bn: Frame) -> object:
    """As nn.Sequential runs, where a layer and the activation after it may be one call."""
    for module in self:
        input = _l1bn.call(module, input)
    return input
