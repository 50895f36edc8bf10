"""What a backend of integer training offers. Every result is exact: backends agree bit by bit.

Tensors are (N, C, H, W) in channels-last memory, or (N, C). The judge of each operation is the
function of the same name in ``l1bn.fixed_point``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from l1bn.fixed_point.formats import Noise
from l1bn.fixed_point.geometry import Geometry
from l1bn.fixed_point.norm.spec import NormSpec
from l1bn.fixed_point.update import SgdStep


class NormState(Protocol):
    """What a normalization keeps of each channel for its backward pass and running statistics.

    All but ``count`` have the shape (C,), hold integers and lie on the CPU.
    """

    @property
    def count(self) -> int:
        """Elements per channel, M."""

    @property
    def total(self) -> Tensor:
        """Σx."""

    @property
    def threshold(self) -> Tensor:
        """Smallest integer at or above the mean."""

    @property
    def above(self) -> Tensor:
        """Elements at or above the mean."""

    @property
    def deviation(self) -> Tensor:
        """Σ|M·x − Σx|, not below the floor."""

    @property
    def live(self) -> Tensor:
        """Where the floor does not hold."""


class NormGradient(Protocol):
    """Gradients of a normalization; see ``l1bn.fixed_point.LayerGradient``."""

    @property
    def dx(self) -> Tensor:
        """Input gradient, int8."""

    @property
    def exponent(self) -> int:
        """Exponent of dx."""

    @property
    def dresidual(self) -> Tensor | None:
        """Gradient of the residual, in the exponent of g."""

    @property
    def dgamma(self) -> Tensor:
        """Σg·x̂ per channel, in steps of g."""

    @property
    def dbeta(self) -> Tensor:
        """Σg per channel, in steps of g."""


@dataclass(frozen=True)
class Constants:
    """Statistics of each channel that do not depend on the batch, and what follows from γ.

    Attributes:
        count: Elements whose statistics these are.
        total: Σx, int64.
        deviation: Σ|M·x − Σx|, int64.
        coefficient: γ/σ, int32.
        shift: Shift of y, int32.

    Shape:
        - all but count: ``(C,)``
    """

    count: int
    total: Tensor
    deviation: Tensor
    coefficient: Tensor
    shift: Tensor


class Kernels(Protocol):
    """A backend."""

    name: str

    def conv2d(self, x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Return int32 sums (N, K, H', W') and the largest magnitude of each channel (K,)."""

    def conv2d_input_gradient(
        self, error: Tensor, weight: Tensor, size: tuple[int, int], geometry: Geometry
    ) -> tuple[Tensor, Tensor]:
        """Return int32 sums (N, C, *size) and the largest magnitude of each channel (C,)."""

    def conv2d_weight_gradient(
        self, x: Tensor, error: Tensor, kernel: tuple[int, int], geometry: Geometry
    ) -> Tensor:
        """Return int32 sums (K, C / groups, *kernel)."""

    def rescale(self, value: Tensor, shift: int | Tensor, bits: int, noise: Noise | None) -> Tensor:
        """Return int8 from int32; ``shift`` is one number, or an int32 one per channel."""

    def norm_forward(
        self,
        sums: Tensor,
        shift: Tensor,
        gamma: Tensor,
        beta: Tensor,
        spec: NormSpec,
        *,
        residual: Tensor | None,
        relu: bool,
    ) -> tuple[Tensor, Tensor, NormState]:
        """Return x (``sums`` in 8 bits), y and the state."""

    def norm_apply(
        self,
        x: Tensor,
        coefficient: Tensor,
        offset: Tensor,
        shift: Tensor,
        *,
        residual: Tensor | None,
        relu: bool,
    ) -> Tensor:
        """Return y of given scalars, int32: evaluation."""

    def norm_backward(
        self,
        g: Tensor,
        x: Tensor,
        y: Tensor | None,
        state: Any,
        *,
        spec: NormSpec,
        g_exponent: int,
        x_exponent: Tensor,
        bits: int,
        noise: Noise | None,
        residual: bool,
    ) -> NormGradient:
        """Return the gradients; ``y`` masks g, ``residual`` asks for the masked g."""

    def norm_sides(self, x: Tensor, threshold: Tensor) -> Tensor:
        """Return Σx, the number of elements at or above a threshold and their sum: (3, C), int64.

        ``threshold`` is int32, from -128 to 128.
        """

    def norm_backward_constant(
        self,
        g: Tensor,
        x: Tensor,
        y: Tensor | None,
        constants: Constants,
        *,
        spec: NormSpec,
        g_exponent: int,
        x_exponent: Tensor,
        bits: int,
        noise: Noise | None,
        residual: bool,
    ) -> NormGradient:
        """Return the gradients where the statistics are constants: dx = g · γ/σ."""

    def add(
        self, a: Tensor, a_exponent: int, b: Tensor, b_exponent: int, bits: int, noise: Noise | None
    ) -> tuple[Tensor, int]:
        """Return a sum of two int8 tensors in int8, and its exponent."""

    def sgd_step(
        self,
        weight: Tensor,
        momentum: Tensor,
        gradient: Tensor,
        step: SgdStep,
        *,
        exponent: int,
        momentum_exponent: int,
        gradient_exponent: int,
        bits: int,
        noise: Noise | None,
    ) -> int:
        """Update weight and momentum (int16) in place; return the momentum's new exponent.

        The momentum takes the random bits of the stream after the weight's.
        """


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Return (C,) values so that they broadcast against (N, C, *S)."""
    return values.to(like.device).view(1, -1, *([1] * (like.dim() - 2)))


def channels_last(x: Tensor) -> Tensor:
    """Return ``x`` in the memory order that the kernels take."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()
