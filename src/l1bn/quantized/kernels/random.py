"""The counter-based random bits of ``l1bn.fixed_point.random_bits``, in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.fixed_point.formats import stream_start


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_WEYL = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift_xor(z: Tensor, bits: int) -> Tensor:
    """``z ^ (z >> bits)`` with a logical shift, which torch has only for unsigned numbers."""
    return z ^ ((z >> bits) & ((1 << (64 - bits)) - 1))


def random_bits(seed: int, stream: int, shape: torch.Size, device: torch.device) -> Tensor:
    """Return 32 random bits for each element, counted in channels-last order.

    Shape:
        - Output: ``shape``, int64
    """
    channels_last = len(shape) == 4
    order = (shape[0], *shape[2:], shape[1]) if channels_last else tuple(shape)
    counter = torch.arange(shape.numel(), device=device).view(order)
    z = counter * _WEYL + _signed(stream_start(seed, stream))
    z = _shift_xor(z, 30) * _FIRST
    z = _shift_xor(z, 27) * _SECOND
    bits = (_shift_xor(z, 31) >> 32) & 0xFFFFFFFF
    return bits.permute(0, 3, 1, 2) if channels_last else bits
