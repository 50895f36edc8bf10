"""Dropout by a mask of integers, drawn from the random bits of the rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.fixed_point.formats import Noise
from l1bn.fixed_point.scaling import peak_shift
from l1bn.quantized.kernels.interface import channels_last
from l1bn.quantized.layers.base import Clock, IntegerLayer
from l1bn.quantized.layers.pooling import narrow_error
from l1bn.quantized.tensor import QTensor

_MASK = 4
_KEEP_BITS = 16
SCALE_BITS = 8


class DropoutLayer(IntegerLayer):
    """Sets numbers to zero in training, and scales the others by 1/(1 − p); nothing in evaluation.

    A number stays where 16 random bits, added to (1 − p) · 2**16, carry over. The factor has 8
    fraction bits; what is scaled takes the finest exponent that holds it
    (Srivastava et al., JMLR 2014).

    Args:
        name: Name of the float layer.
        site: Number in the network.
        clock: The network's.
        p: Probability of zero, below 1.
        channels: Whether whole channels of an image go together.
    """

    _mask: Tensor | None = None

    def __init__(self, name: str, site: int, clock: Clock, p: float, channels: bool) -> None:
        super().__init__(name, site, clock)
        self.keep = round((1 - p) * (1 << _KEEP_BITS))
        self.channels = channels
        self.scale = ((2 << (_KEEP_BITS + SCALE_BITS)) + self.keep) // (2 * self.keep)

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the masked and scaled input; in evaluation, the input."""
        x = inputs[0]
        if not self.training:
            return x
        kernels = self.clock.kernels(x.values)
        shape = (*x.shape[:2], 1, 1) if self.channels and x.values.dim() == 4 else x.shape
        chances = channels_last(
            torch.full(shape, self.keep, dtype=torch.int32, device=x.values.device)
        )
        # Drawn at random whatever the rounding.
        bits = Noise(self.clock.config.seed, self.clock.place(self.site, _MASK))
        self._mask = kernels.rescale(chances, _KEEP_BITS, 8, bits)
        wide = x.values.int() * self._mask * self.scale
        shift = peak_shift(int(wide.abs().max()))
        return QTensor(
            kernels.rescale(channels_last(wide), shift, 8, None), x.exponent - SCALE_BITS + shift
        )

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error of what was kept, scaled."""
        if self._mask is None:
            raise RuntimeError(f"{self.name}: expected a forward pass in training mode first")
        wide = error.values.int() * self._mask * self.scale
        return (narrow_error(self, channels_last(wide), error.exponent - SCALE_BITS),)

    def forget(self) -> None:
        """Drop what the forward pass kept."""
        self._mask = None

    def kept(self) -> list[Tensor]:
        """Return the tensors that the forward pass kept."""
        return [] if self._mask is None else [self._mask]
