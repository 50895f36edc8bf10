"""Exponents of activations: those of the batch in training, remembered ones in evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l1bn.fixed_point.scaling import MAX_SHIFT, peak_shift


def follow(remembered: Tensor, seen: Tensor) -> Tensor:
    """Move remembered exponents: up at once, down by one when a batch stays two below.

    A batch that happens to stay just under a power of two must not make others saturate.

    Shape:
        - remembered, seen, Output: the same
    """
    lowered = torch.where(seen <= remembered - 2, remembered - 1, remembered)
    return torch.maximum(seen, lowered)


class OutputScale(nn.Module):
    """The exponent of a layer's 8-bit output.

    Attributes:
        exponent: The remembered exponent, int32.
        seen: Whether there is one yet, bool.
    """

    exponent: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("exponent", torch.zeros((), dtype=torch.int32))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def shift(self, peak: int, exponent: int, training: bool) -> int:
        """Return the right shift of wide values.

        Args:
            peak: Their largest magnitude.
            exponent: Their exponent.
            training: Whether to fit this batch and remember, or to take what is remembered.
        """
        shift = peak_shift(peak)
        if training:
            now = torch.full_like(self.exponent, exponent + shift)
            self.exponent.copy_(follow(self.exponent, now) if self.seen else now)
            self.seen.fill_(True)
            return shift
        if not self.seen:
            return shift
        return min(max(int(self.exponent) - exponent, 0), MAX_SHIFT)
