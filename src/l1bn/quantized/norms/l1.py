"""How L1BN computes in integers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from l1bn.fixed_point.formats import IntArray, Noise, ScalarArray
from l1bn.fixed_point.norm.constant import Sides
from l1bn.fixed_point.norm.normalize import Channel, fold
from l1bn.fixed_point.norm.running import Running, evaluation_statistics
from l1bn.fixed_point.norm.spec import NormSpec
from l1bn.fixed_point.norm.statistics import L1Statistics
from l1bn.fixed_point.scaling import peak_shift
from l1bn.quantized.kernels import Kernels
from l1bn.quantized.kernels.eager_norm import python_numbers, statistics_of, tensor_of
from l1bn.quantized.kernels.interface import Constants, NormGradient
from l1bn.quantized.norms.buffers import NormBuffers
from l1bn.quantized.norms.rule import Saved, Sums
from l1bn.quantized.tensor import QTensor


@dataclass(frozen=True)
class _Data:
    """What is normalized, and the statistics in its steps."""

    x: Tensor
    exponent: Tensor
    running: Running


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
        running = buffers.running(exponents)
        return self._constant(kernels, _Data(x, exponents, running), buffers, residual, relu)

    def train_running(
        self,
        kernels: Kernels,
        sums: Sums,
        buffers: NormBuffers,
        residual: Tensor | None,
        relu: bool,
    ) -> tuple[Tensor, Saved]:
        """Normalize by the running statistics, then move them toward the batch."""
        seen, shift = sums.narrow_exponent, sums.shift
        if int(buffers.num_batches_tracked):
            # In steps that hold the batch, and no finer ones than those of the averages.
            shift = torch.maximum(shift, buffers.shift(sums.exponent))
        exponents = shift + sums.exponent
        x = kernels.rescale(sums.values, shift, 8, None)
        running, moved = buffers.moving(partial(_sides, kernels, x), exponents)
        out = self._constant(kernels, _Data(x, exponents, running), buffers, residual, relu)
        buffers.settle(moved, exponents, seen)
        return out

    def _constant(
        self,
        kernels: Kernels,
        data: _Data,
        buffers: NormBuffers,
        residual: Tensor | None,
        relu: bool,
    ) -> tuple[Tensor, Saved]:
        """Normalize by given statistics."""
        channel, offset = self._folded(data.running, buffers)
        coefficient, right = tensor_of(channel.coefficient).int(), tensor_of(channel.shift).int()
        add = tensor_of(offset).int()
        y = kernels.norm_apply(data.x, coefficient, add, right, residual=residual, relu=relu)
        statistics = channel.statistics
        assert isinstance(statistics, L1Statistics)
        constants = Constants(
            statistics.count,
            tensor_of(statistics.total),
            tensor_of(statistics.deviation),
            coefficient,
            right,
        )
        return y, Saved(data.x, y if relu else None, data.exponent, constants)

    def constants(self, exponent: Tensor, buffers: NormBuffers) -> tuple[Tensor, Tensor, Tensor]:
        """Return coefficient, offset and shift of evaluation, for data of these exponents."""
        channel, offset = self._folded(buffers.running(exponent), buffers)
        return tensor_of(channel.coefficient), tensor_of(offset), tensor_of(channel.shift)

    def _folded(self, running: Running, buffers: NormBuffers) -> tuple[Channel, ScalarArray]:
        gamma, beta = (c.cpu().numpy() for c in buffers.codes(self.spec))
        return fold(evaluation_statistics(running, self.spec), gamma, beta, self.spec)

    def backward(
        self,
        kernels: Kernels,
        g: QTensor,
        saved: Saved,
        bits: int,
        noise: Noise | None,
        residual: bool,
    ) -> NormGradient:
        """Return the gradients; where the statistics were constants, dx = g · γ/σ."""
        constant = isinstance(saved.state, Constants)
        gradient = kernels.norm_backward_constant if constant else kernels.norm_backward
        return gradient(
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


def _sides(kernels: Kernels, x: Tensor, threshold: IntArray) -> Sides:
    found = kernels.norm_sides(x, torch.from_numpy(threshold).int())
    total, above, high = (python_numbers(sums) for sums in found)
    return Sides(x.numel() // x.shape[1], total, above, high)
