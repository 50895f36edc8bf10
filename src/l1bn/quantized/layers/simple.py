"""Layers without parameters that keep or mask what they get."""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.quantized.kernels.interface import channels_last
from l1bn.quantized.layers.base import Clock, IntegerLayer
from l1bn.quantized.layers.norm import to_exponent
from l1bn.quantized.tensor import QTensor


class IdentityLayer(IntegerLayer):
    """Passes on what it gets."""

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the input."""
        return inputs[0]

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error."""
        return (error,)


class ReluLayer(IntegerLayer):
    """max(x, 0)."""

    _y: Tensor | None = None

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the positive part."""
        y = inputs[0].values.clamp(min=0)
        if self.training:
            self._y = y
        return QTensor(y, inputs[0].exponent)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error where the output is positive."""
        if self._y is None:
            raise RuntimeError(f"{self.name}: expected a forward pass in training mode first")
        return (QTensor(torch.where(self._y > 0, error.values, 0), error.exponent),)

    def forget(self) -> None:
        """Drop what the forward pass kept."""
        self._y = None

    def kept(self) -> list[Tensor]:
        """Return the tensors that the forward pass kept."""
        return [] if self._y is None else [self._y]


class FlattenLayer(IntegerLayer):
    """(N, C, H, W) to (N, C·H·W), in the order of ``torch.flatten``.

    Args:
        name: Name of the float layer.
        site: Number in the network.
        clock: The network's.
        features: Numbers of an image, where the float network says how many; "one" a channel.
    """

    _shape: torch.Size | None = None

    def __init__(
        self, name: str, site: int, clock: Clock, features: int | str | None = None
    ) -> None:
        super().__init__(name, site, clock)
        self.features = features

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        count = shapes[0][1:].numel()
        wanted = shapes[0][1] if self.features == "one" else self.features
        if wanted not in (None, count):
            raise ValueError(
                f"{self.name}: expected {wanted} numbers an image, which the float network names, "
                f"got {count} of {tuple(shapes[0])}; use images of the size it was built for"
            )
        return torch.Size((shapes[0][0], count))

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the input with its channels and pixels in one dimension."""
        if self.training:
            self._shape = inputs[0].shape
        return QTensor(inputs[0].values.flatten(1).contiguous(), inputs[0].exponent)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error in the shape of the input."""
        if self._shape is None:
            raise RuntimeError(f"{self.name}: expected a forward pass in training mode first")
        return (QTensor(channels_last(error.values.view(self._shape)), error.exponent),)


class AddLayer(IntegerLayer):
    """The saturated sum of two tensors.

    Args:
        name: Name of the float operation.
        site: Number in the network.
        clock: The network's.
        fraction: Largest number of fraction bits; inputs of coarser steps keep theirs.
    """

    def __init__(self, name: str, site: int, clock: Clock, fraction: int) -> None:
        super().__init__(name, site, clock)
        self.fraction = fraction

    def exponent(self, *inputs: QTensor) -> int:
        """Return the exponent of the sum."""
        return max(-self.fraction, *(i.exponent for i in inputs))

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{self.name}: expected tensors of one shape, got {tuple(shapes[0])} and "
                f"{tuple(shapes[1])}; integer additions do not broadcast"
            )
        return shapes[0]

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the sum."""
        exponent = self.exponent(*inputs)
        a, b = (to_exponent(i, exponent).values for i in inputs)
        total = (a.short() + b).clamp(-127, 127).to(torch.int8)
        return QTensor(total, exponent)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error twice."""
        return (error, error)
