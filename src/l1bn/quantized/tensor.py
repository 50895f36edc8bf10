"""What flows through an integer network: integers and the power of two they count."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Noise", "QTensor"]


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
