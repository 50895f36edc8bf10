"""What flows through an integer network: integers and the power of two they count."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Noise", "QTensor", "quantize"]


@dataclass(frozen=True)
class QTensor:
    """A tensor of integers; it stands for ``values · 2**exponent``.

    Attributes:
        values: int8; int32 for logits.
        exponent: One for the whole tensor.
    """

    values: torch.Tensor
    exponent: int

    @property
    def shape(self) -> torch.Size:
        """Shape of the values."""
        return self.values.shape

    def real(self) -> torch.Tensor:
        """The numbers it stands for, in float32: to look at, not to compute with."""
        return torch.ldexp(self.values.float(), torch.tensor(self.exponent))


@dataclass(frozen=True)
class Noise:
    """Names the random bits of one stochastic rounding, see `l1bn.fixed_point.random_bits`.

    Attributes:
        seed: Seed of the run.
        stream: Number of the tensor and the step.
    """

    seed: int
    stream: int


_CLIPPED = 0.05


def quantize(values: torch.Tensor, exponent: int) -> QTensor:
    """Round floating-point images or features to int8 in steps of ``2**exponent``.

    Args:
        values: What the network takes.
        exponent: −5 holds ±3.97, which suits normalized images.

    Returns:
        Integers of −127 to 127, four-dimensional ones in channels-last memory.

    Shape:
        - values: (N, C, H, W) or (N, C)

    Raises:
        ValueError: If a value is not finite, or more than one in twenty does not fit.
    """
    if not bool(torch.isfinite(values).all()):
        raise ValueError("expected finite values, got NaN or infinity; clean the data first")
    steps = torch.round(torch.ldexp(values, torch.tensor(-exponent)))
    clipped = float((steps.abs() > 127).float().mean()) if values.numel() else 0.0
    if clipped > _CLIPPED:
        raise ValueError(
            f"expected values within ±{127 * 2.0**exponent:.4g}, got {clipped:.0%} outside, up to "
            f"{float(values.abs().max()):.4g}; choose a larger exponent or normalize first"
        )
    codes = steps.clamp(-127, 127).to(torch.int8)
    last = torch.channels_last if codes.dim() == 4 else torch.contiguous_format
    return QTensor(codes.contiguous(memory_format=last), exponent)
