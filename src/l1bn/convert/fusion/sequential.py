"""nn.Sequential: its own loop, over the live modules."""

from __future__ import annotations

from torch import nn

from l1bn.convert.fusion.decide import call, value


def forward(self: nn.Sequential, input: object) -> object:
    """As nn.Sequential runs, where a layer and the activation after it may be one call."""
    return value(run(self, input))


def run(self: nn.Sequential, input: object, _l1bn_earlier: tuple[object, ...] = ()) -> object:
    """The same, and where the last layer is a normalization its output may be a promise."""
    for module in self:
        input = call(module, input, _l1bn_earlier)
    return input
