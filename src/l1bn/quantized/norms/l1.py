"""How L1BN computes in integers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from l1bn.fixed_point.formats import Noise
from l1bn.fixed_point.norm.backward import frozen_dgamma
from l1bn.fixed_point.norm.normalize import fold
from l1bn.fixed_point.norm.running import Running, evaluation_statistics
from l1bn.fixed_point.norm.spec import NormSpec
from l1bn.fixed_point.scaling import common_exponent, peak_shift
from l1bn.quantized.kernels import Kernels
from l1bn.quantized.kernels.eager_norm import (
    EagerGradient,
    all_but_channels,
    channel_peak,
    python_numbers,
    statistics_of,
    tensor_of,
)
from l1bn.quantized.kernels.interface import NormGradient, per_channel
from l1bn.quantized.norms.buffers import NormBuffers
from l1bn.quantized.norms.rule import Saved, Sums
from l1bn.quantized.tensor import QTensor


@dataclass(frozen=True)
class FrozenState:
    """Numbers of each channel where the statistics are constants.

    Attributes:
        running: The statistics, in steps of the data.
        coefficient: γ/σ.
        shift: Shift of y.
    """

    running: Running
    coefficient: Tensor
    shift: Tensor


class L1Rule:
    """L1BN (Wu et al., arXiv:1802.09769).

    Args:
        spec: Formats.
        per_channel: One exponent per channel; else one for all.
    """

    def __init__(self, spec: NormSpec, per_channel: bool = True) -> None:
        self.spec = spec
        self.per_channel = per_channel

    def shift(self, peak: Tensor) -> Tensor:
        """Return the right shift of each channel's sums."""
        shifts = [peak_shift(p) for p in peak.tolist()]
        if not self.per_channel:
            shifts = [max(shifts)] * len(shifts)
        return torch.tensor(shifts, dtype=torch.int32)

    def train(
        self,
        kernels: Kernels,
        sums: Sums,
        buffers: NormBuffers,
        residual: Tensor | None,
        relu: bool,
    ) -> tuple[Tensor, Saved]:
        """Normalize by the batch's statistics and note them in the running ones."""
        gamma, beta = buffers.codes(self.spec)
        x, y, state = kernels.norm_forward(
            sums.values, sums.shift, gamma, beta, self.spec, residual=residual, relu=relu
        )
        exponents = sums.narrow_exponent
        buffers.update(statistics_of(state), exponents)
        return y, Saved(x, y if relu else None, exponents, state)

    def evaluate(
        self,
        kernels: Kernels,
        sums: Sums,
        buffers: NormBuffers,
        residual: Tensor | None,
        relu: bool,
    ) -> tuple[Tensor, Saved]:
        """Normalize by the running statistics."""
        x = kernels.rescale(sums.values, sums.shift, 8, None)
        exponents = sums.narrow_exponent
        coefficient, offset, right = self.constants(exponents, buffers)
        scalars = coefficient.int(), offset.int(), right.int()
        y = kernels.norm_apply(x, *scalars, residual=residual, relu=relu)
        frozen = FrozenState(buffers.running(exponents), coefficient, right)
        return y, Saved(x, y if relu else None, exponents, frozen)

    def constants(self, exponent: Tensor, buffers: NormBuffers) -> tuple[Tensor, Tensor, Tensor]:
        """Return coefficient, offset and shift of evaluation, for data of these exponents."""
        running = buffers.running(exponent)
        gamma, beta = (c.cpu().numpy() for c in buffers.codes(self.spec))
        channel, offset = fold(evaluation_statistics(running, self.spec), gamma, beta, self.spec)
        coefficient, add, right = (
            torch.tensor(a.tolist(), dtype=torch.int64)
            for a in (channel.coefficient, offset, channel.shift)
        )
        return coefficient, add, right

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
        return kernels.norm_backward(
            g.values,
            saved.x,
            saved.y,
            saved.state,
            spec=self.spec,
            g_exponent=g.exponent,
            x_exponent=saved.exponent,
            bits=bits,
            noise=noise,
            residual=residual,
        )

    def backward_frozen(
        self,
        kernels: Kernels,
        g: QTensor,
        saved: Saved,
        bits: int,
        noise: Noise | None,
        residual: bool,
    ) -> NormGradient:
        """Return the gradients where the statistics were constants: dx = g · γ/σ."""
        state, x = saved.state, saved.x
        assert isinstance(state, FrozenState)
        masked = g.values if saved.y is None else torch.where(saved.y > 0, g.values, 0)
        dims = all_but_channels(x)
        total, products = masked.sum(dims), (masked.int() * x).sum(dims)
        dgamma = frozen_dgamma(
            python_numbers(total),
            python_numbers(products),
            evaluation_statistics(state.running, self.spec),
        )
        wide = masked * per_channel(state.coefficient.int(), x)
        exponents = (
            g.exponent
            - python_numbers(state.shift)
            - self.spec.output.fraction
            - python_numbers(saved.exponent)
        )
        exponent, shift = common_exponent(channel_peak(wide).tolist(), exponents, bits)
        dx = kernels.rescale(wide, torch.from_numpy(shift).int(), bits, noise)
        branch = masked if residual else None
        return EagerGradient(dx, exponent, branch, tensor_of(dgamma), total.cpu())
