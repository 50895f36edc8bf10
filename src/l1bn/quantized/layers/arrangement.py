"""Layers that move pixels and channels: joining, copying and padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from l1bn.quantized.kernels.interface import channels_last
from l1bn.quantized.layers.base import Clock, IntegerLayer
from l1bn.quantized.layers.norm import to_exponent
from l1bn.quantized.layers.pooling import narrow_error
from l1bn.quantized.layers.window import Pair, Window, check_images
from l1bn.quantized.tensor import QTensor


class JoinLayer(IntegerLayer):
    """The channels of several tensors, one after the other; all take the coarsest exponent."""

    _channels: tuple[int, ...] = ()

    def exponent(self, *inputs: QTensor) -> int:
        """Return the exponent of the output."""
        return max(i.exponent for i in inputs)

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        if len({(s[0], *s[2:]) for s in shapes}) != 1:
            raise ValueError(
                f"{self.name}: expected tensors that differ in their channels only, got "
                f"{', '.join(str(tuple(s)) for s in shapes)}"
            )
        return torch.Size((shapes[0][0], sum(s[1] for s in shapes), *shapes[0][2:]))

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return all channels."""
        exponent = self.exponent(*inputs)
        self._channels = tuple(i.shape[1] for i in inputs)
        aligned = [to_exponent(i, exponent).values for i in inputs]
        return QTensor(channels_last(torch.cat(aligned, 1)), exponent)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return to each input the error of its channels."""
        parts = error.values.split(self._channels, 1)
        return tuple(QTensor(channels_last(p), error.exponent) for p in parts)


class UpsampleLayer(IntegerLayer):
    """Each pixel several times, down and across.

    Args:
        name: Name of the float layer.
        site: Number in the network.
        clock: The network's.
        scale: Copies down and across.
    """

    def __init__(self, name: str, site: int, clock: Clock, scale: Pair) -> None:
        super().__init__(name, site, clock)
        self.scale = scale

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        check_images(self.name, shapes[0])
        n, channels, height, width = shapes[0]
        return torch.Size((n, channels, height * self.scale[0], width * self.scale[1]))

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the enlarged image."""
        values = inputs[0].values
        for axis, count in enumerate(self.scale, start=2):
            values = values.repeat_interleave(count, axis)
        return QTensor(channels_last(values), inputs[0].exponent)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the sum of the errors of the copies."""
        taps = Window(self.scale, self.scale).taps(error.values, error.shape[2:])
        total = taps[0].int()
        for tap in taps[1:]:
            total += tap
        return (narrow_error(self, channels_last(total), error.exponent),)


class PadLayer(IntegerLayer):
    """Zeros around an image, or, by negative numbers, less of it.

    Args:
        name: Name of the float layer.
        site: Number in the network.
        clock: The network's.
        borders: Pixels left, right, above and below.
    """

    def __init__(
        self, name: str, site: int, clock: Clock, borders: tuple[int, int, int, int]
    ) -> None:
        super().__init__(name, site, clock)
        self.borders = borders

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        check_images(self.name, shapes[0])
        n, channels, height, width = shapes[0]
        left, right, top, bottom = self.borders
        size = height + top + bottom, width + left + right
        if min(size) < 1:
            raise ValueError(
                f"{self.name}: expected images that padding by {self.borders} leaves something of, "
                f"got {tuple(shapes[0])}; use larger images"
            )
        return torch.Size((n, channels, *size))

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the padded image."""
        return QTensor(channels_last(F.pad(inputs[0].values, self.borders)), inputs[0].exponent)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error of the image's own pixels."""
        back = [-b for b in self.borders]
        return (QTensor(channels_last(F.pad(error.values, back)), error.exponent),)
