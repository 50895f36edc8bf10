"""What a normalization of integer training is: a rule, and what it keeps for its backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from l1bn.fixed_point.formats import Noise
from l1bn.fixed_point.norm.spec import NormSpec
from l1bn.quantized.kernels import Kernels
from l1bn.quantized.kernels.interface import NormGradient
from l1bn.quantized.norms.buffers import NormBuffers
from l1bn.quantized.tensor import QTensor


@dataclass(frozen=True)
class Saved:
    """What a normalization keeps for its backward pass.

    Attributes:
        x: Its input, int8.
        y: Its output where a ReLU masks the gradient: the next layer keeps it anyway.
        exponent: Exponent of each channel of x.
        state: Numbers of each channel; what they are is the rule's.
    """

    x: Tensor
    y: Tensor | None
    exponent: Tensor
    state: Any

    def tensors(self) -> list[Tensor]:
        """Return what it holds."""
        return [self.x] if self.y is None else [self.x, self.y]


@dataclass(frozen=True)
class Sums:
    """What is normalized: sums of products, and how they become 8 bits.

    Attributes:
        values: int32.
        shift: Right shift of each channel, int32.
        exponent: Exponent of the values.
    """

    values: Tensor
    shift: Tensor
    exponent: int

    @property
    def narrow_exponent(self) -> Tensor:
        """Exponent of each channel in 8 bits."""
        return self.shift + self.exponent


class NormRule(Protocol):
    """A normalization of 8-bit channels."""

    spec: NormSpec

    def shift(self, peak: Tensor) -> Tensor:
        """Return the right shift of each channel's sums, from their largest magnitudes."""

    def train(
        self,
        kernels: Kernels,
        sums: Sums,
        buffers: NormBuffers,
        residual: Tensor | None,
        relu: bool,
    ) -> tuple[Tensor, Saved]:
        """Normalize by the batch's statistics and note them in the running ones."""

    def evaluate(
        self,
        kernels: Kernels,
        sums: Sums,
        buffers: NormBuffers,
        residual: Tensor | None,
        relu: bool,
    ) -> tuple[Tensor, Saved]:
        """Normalize by the running statistics."""

    def train_running(
        self,
        kernels: Kernels,
        sums: Sums,
        buffers: NormBuffers,
        residual: Tensor | None,
        relu: bool,
    ) -> tuple[Tensor, Saved]:
        """Normalize by the running statistics, then move them toward the batch."""

    def constants(self, exponent: Tensor, buffers: NormBuffers) -> tuple[Tensor, Tensor, Tensor]:
        """Return coefficient, offset and shift of evaluation, for data of these exponents."""

    def backward(
        self,
        kernels: Kernels,
        g: QTensor,
        saved: Saved,
        bits: int,
        noise: Noise | None,
        residual: bool,
    ) -> NormGradient:
        """Return the gradients."""
