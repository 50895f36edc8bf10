"""Activations beside ReLU: a limit at 6, and the piecewise Hardswish by a table of 256 codes."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from l1bn.fixed_point.activation import SLOPE_BITS, hardswish, hardswish_slopes, six
from l1bn.quantized.layers.base import IntegerLayer
from l1bn.quantized.layers.pooling import narrow_error
from l1bn.quantized.tensor import QTensor


class Relu6Layer(IntegerLayer):
    """min(max(x, 0), 6)."""

    _alive: Tensor | None = None

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the limited input."""
        x = inputs[0]
        top = six(x.exponent)
        y = x.values.clamp(0, min(top, 127))
        if self.training:
            self._alive = (y > 0) & (y < top) if top <= 127 else y > 0
        return QTensor(y, x.exponent)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error where the output lies between the limits."""
        if self._alive is None:
            raise RuntimeError(f"{self.name}: expected a forward pass in training mode first")
        return (QTensor(torch.where(self._alive, error.values, 0), error.exponent),)

    def forget(self) -> None:
        """Drop what the forward pass kept."""
        self._alive = None

    def kept(self) -> list[Tensor]:
        """Return the tensors that the forward pass kept."""
        return [] if self._alive is None else [self._alive]


class HardswishLayer(IntegerLayer):
    """x · min(max(x + 3, 0), 6) / 6 (Howard et al., arXiv:1905.02244)."""

    _x: QTensor | None = None

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the function of each code, in the input's exponent."""
        x = inputs[0]
        if self.training:
            self._x = x
        values, _ = _tables(x.exponent)
        return QTensor(_look_up(values, x.values), x.exponent)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error times the slope."""
        if self._x is None:
            raise RuntimeError(f"{self.name}: expected a forward pass in training mode first")
        _, slopes = _tables(self._x.exponent)
        wide = error.values.int() * _look_up(slopes, self._x.values)
        return (narrow_error(self, wide, error.exponent - SLOPE_BITS),)

    def forget(self) -> None:
        """Drop what the forward pass kept."""
        self._x = None

    def kept(self) -> list[Tensor]:
        """Return the tensors that the forward pass kept."""
        return [] if self._x is None else [self._x.values]


@lru_cache(maxsize=64)
def _tables(exponent: int) -> tuple[Tensor, Tensor]:
    codes = torch.arange(-128, 128).numpy()
    found = (hardswish(codes, exponent), hardswish_slopes(codes, exponent))
    values, slopes = (torch.from_numpy(f).to(torch.int8) for f in found)
    return values, slopes


def _look_up(table: Tensor, codes: Tensor) -> Tensor:
    places = codes.int() + 128
    return table.to(codes.device)[places]
