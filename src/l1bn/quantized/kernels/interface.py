"""What a backend of integer training offers. Every result is exact: backends agree bit by bit.

Tensors are (N, C, H, W) in channels-last memory, or (N, C). The judge of each operation is the
function of the same name in `l1bn.fixed_point`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from l1bn.fixed_point.spec import NormSpec
from l1bn.fixed_point.update import SgdStep
from l1bn.quantized.tensor import Noise

__all__ = ["Kernels", "NormGradient", "NormState"]


@dataclass(frozen=True)
class NormState:
    """What a normalization keeps of each channel for its backward pass and running statistics.

    Attributes:
        count: Elements per channel, M.
        total: Σx.
        threshold: Smallest integer at or above the mean.
        above: Elements at or above the mean.
        deviation: Σ|M·x − S|, not below the floor (L1); M·σ (others).
        live: Where the floor does not hold.
        coefficient: γ/σ.
        shift: Shift of y.
        exponent: Exponent of 1/σ.

    Shape:
        - all but count: (C,), int64, on the CPU
    """

    count: int
    total: Tensor
    threshold: Tensor
    above: Tensor
    deviation: Tensor
    live: Tensor
    coefficient: Tensor
    shift: Tensor
    exponent: Tensor


@dataclass(frozen=True)
class NormGradient:
    """Gradients of a normalization; see `l1bn.fixed_point.LayerGradient`."""

    dx: Tensor
    exponent: int
    dresidual: Tensor | None
    dgamma: Tensor
    dbeta: Tensor


class Kernels(Protocol):
    """A backend."""

    name: str

    def conv2d(self, x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor]:
        """Return int32 sums (N, K, H', W') and the largest magnitude of each channel (K,)."""

    def conv2d_input_gradient(
        self, error: Tensor, weight: Tensor, size: tuple[int, int], stride: int, padding: int
    ) -> tuple[Tensor, Tensor]:
        """Return int32 sums (N, C, *size) and the largest magnitude of each channel (C,)."""

    def conv2d_weight_gradient(
        self, x: Tensor, error: Tensor, kernel: tuple[int, int], stride: int, padding: int
    ) -> Tensor:
        """Return int32 sums (K, C, *kernel)."""

    def rescale(self, value: Tensor, shift: int | Tensor, bits: int, noise: Noise | None) -> Tensor:
        """Return int8 from int32; ``shift`` is one number or one per channel."""

    def norm_forward(
        self,
        acc: Tensor,
        shift: Tensor,
        gamma: Tensor,
        beta: Tensor,
        spec: NormSpec,
        residual: Tensor | None,
        relu: bool,
    ) -> tuple[Tensor, Tensor, NormState]:
        """Return x (``acc`` in 8 bits), y and the state."""

    def norm_apply(
        self,
        x: Tensor,
        coefficient: Tensor,
        offset: Tensor,
        shift: Tensor,
        residual: Tensor | None,
        relu: bool,
    ) -> Tensor:
        """Return y of given scalars: evaluation."""

    def norm_backward(
        self,
        g: Tensor,
        y: Tensor | None,
        x: Tensor,
        state: NormState,
        spec: NormSpec,
        g_exponent: int,
        x_exponent: Tensor,
        bits: int,
        noise: Noise | None,
        residual: bool,
    ) -> NormGradient:
        """Return the gradients; ``y`` masks g, ``residual`` asks for the masked g."""

    def add(
        self, a: Tensor, a_exponent: int, b: Tensor, b_exponent: int, bits: int, noise: Noise | None
    ) -> tuple[Tensor, int]:
        """Return a sum of two int8 tensors in int8, and its exponent."""

    def sgd_step(
        self,
        weight: Tensor,
        exponent: int,
        momentum: Tensor,
        momentum_exponent: int,
        gradient: Tensor,
        gradient_exponent: int,
        step: SgdStep,
        bits: int,
        noise: tuple[Noise, Noise] | None,
    ) -> int:
        """Update weight and momentum (int16) in place; return the momentum's new exponent."""


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Return (C,) values so that they broadcast against (N, C, *S)."""
    return values.to(like.device).view(1, -1, *([1] * (like.dim() - 2)))


def channels_last(x: Tensor) -> Tensor:
    """Return ``x`` in the memory order that the kernels take."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()
