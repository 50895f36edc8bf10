"""Normalizations to measure L1BN against: L2BN with an integer root, and Range BN.

They compute with the operations of the eager backend; nothing here is meant to be fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from l1bn.fixed_point.formats import Noise, divide_nearest, divide_truncated, integer_root
from l1bn.fixed_point.norm.backward import l2_slopes
from l1bn.fixed_point.norm.normalize import Channel, fold
from l1bn.fixed_point.norm.spec import NormSpec
from l1bn.fixed_point.norm.statistics import L2Statistics
from l1bn.fixed_point.scaling import common_exponent
from l1bn.quantized.kernels import Kernels
from l1bn.quantized.kernels.eager_norm import (
    EagerGradient,
    all_but_channels,
    channel_peak,
    python_numbers,
    tensor_of,
)
from l1bn.quantized.kernels.interface import NormGradient, channels_last, per_channel
from l1bn.quantized.norms.buffers import NormBuffers
from l1bn.quantized.norms.l1 import L1Rule
from l1bn.quantized.norms.rule import Saved, Sums
from l1bn.quantized.tensor import QTensor

_Numbers = npt.NDArray[Any]
_CHUNKS = 16
_FACTOR_BITS = 16


@dataclass(frozen=True)
class _State:
    """Per-channel numbers of a baseline, and where the extremes of Range BN are."""

    channel: Channel
    extremes: tuple[Tensor, Tensor] | None = None


class L2Rule(L1Rule):
    """L2BN: Σx², an integer root, and a product with x for every element of dx."""

    def train(
        self,
        kernels: Kernels,
        sums: Sums,
        buffers: NormBuffers,
        residual: Tensor | None,
        relu: bool,
    ) -> tuple[Tensor, Saved]:
        """Normalize by the batch's statistics and note them in the running ones."""
        x = kernels.rescale(sums.values, sums.shift, 8, None)
        statistics, extremes = self._statistics(x)
        gamma, beta = (c.cpu().numpy() for c in buffers.codes(self.spec))
        channel, offset = fold(statistics, gamma, beta, self.spec)
        coefficient, add, right = (
            tensor_of(a).int() for a in (channel.coefficient, offset, channel.shift)
        )
        y = kernels.norm_apply(x, coefficient, add, right, residual=residual, relu=relu)
        exponents = sums.narrow_exponent
        buffers.update(statistics, exponents)
        return y, Saved(x, y if relu else None, exponents, _State(channel, extremes))

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
        if not isinstance(saved.state, _State):
            return super().backward(kernels, g, saved, bits, noise, residual)
        masked = g.values if saved.y is None else torch.where(saved.y > 0, g.values, 0)
        state, x = saved.state, saved.x
        dims, statistics = all_but_channels(x), state.channel.statistics
        total = masked.sum(dims)
        dbeta = python_numbers(total)
        covariance = (
            statistics.count * python_numbers((masked.int() * x).sum(dims))
            - statistics.total * dbeta
        )
        wide, dgamma = self._products(masked, x, state, dbeta, covariance)
        exponents = (
            g.exponent
            - state.channel.shift
            - self.spec.output.fraction
            - python_numbers(saved.exponent)
        )
        exponent, shift = common_exponent(channel_peak(wide).tolist(), exponents, bits)
        dx = kernels.rescale(wide, torch.from_numpy(shift).int(), bits, noise)
        branch = masked if residual else None
        return EagerGradient(dx, exponent, branch, tensor_of(dgamma), total.cpu())

    def _statistics(self, x: Tensor) -> tuple[L2Statistics, tuple[Tensor, Tensor] | None]:
        dims, count = all_but_channels(x), x.numel() // x.shape[1]
        total = python_numbers(x.sum(dims))
        square = python_numbers((x.int() * x).sum(dims))
        return _with_floor(count, total, integer_root(count * square - total**2), self.spec), None

    def _products(
        self, g: Tensor, x: Tensor, state: _State, dbeta: _Numbers, covariance: _Numbers
    ) -> tuple[Tensor, _Numbers]:
        slopes = l2_slopes(dbeta, covariance, state.channel, self.spec)
        coefficient, slope, offset = (
            per_channel(tensor_of(a).int(), x)
            for a in (slopes.coefficient, slopes.slope, slopes.offset)
        )
        return g * coefficient - x * slope + offset, slopes.dgamma


class RangeRule(L2Rule):
    """Range BN: σ from the mean range of 16 chunks (Banner et al., arXiv:1805.11046).

    The gradient through σ falls on the extremes of each chunk alone.
    """

    def _statistics(self, x: Tensor) -> tuple[L2Statistics, tuple[Tensor, Tensor] | None]:
        flat = x.transpose(0, 1).flatten(1)
        count = flat.shape[1]
        chunk = max(1, count // _CHUNKS)
        chunks = flat[:, : chunk * (count // chunk)].unflatten(1, (-1, chunk))
        (high, top), (low, bottom) = chunks.max(2), chunks.min(2)
        ranges = python_numbers((high.int() - low).sum(1))
        total = python_numbers(x.sum(all_but_channels(x)))
        factor = _range_factor(chunk, chunks.shape[1])
        root = (count * ranges * factor) >> _FACTOR_BITS
        start = torch.arange(chunks.shape[1], device=x.device) * chunk
        return _with_floor(count, total, root, self.spec), (top + start, bottom + start)

    def _products(
        self, g: Tensor, x: Tensor, state: _State, dbeta: _Numbers, covariance: _Numbers
    ) -> tuple[Tensor, _Numbers]:
        channel, statistics = state.channel, state.channel.statistics
        assert isinstance(statistics, L2Statistics)
        assert state.extremes is not None
        dgamma = divide_truncated(covariance, statistics.root)
        mean = tensor_of(divide_nearest(-channel.coefficient * dbeta, statistics.count))
        wide = g * per_channel(tensor_of(channel.coefficient), x) + per_channel(mean, x)
        top, bottom = state.extremes
        count = statistics.count
        factor = _range_factor(max(1, count // _CHUNKS), top.shape[1])
        slope = (channel.coefficient * dgamma * factor) >> _FACTOR_BITS
        peak: _Numbers = np.where(statistics.live, slope, 0)
        flat = wide.transpose(0, 1).flatten(1)
        push = tensor_of(peak)[:, None].to(x.device).expand(-1, top.shape[1])
        flat = flat.scatter_add(1, top, -push).scatter_add(1, bottom, push)
        shape = (x.shape[1], x.shape[0], *x.shape[2:])
        limit = (1 << 31) - 1
        wide = channels_last(flat.view(shape).transpose(0, 1).clamp(-limit, limit).int())
        return wide, dgamma


def _with_floor(count: int, total: _Numbers, root: _Numbers, spec: NormSpec) -> L2Statistics:
    floor = spec.root_floor(count)
    live = root > floor
    return L2Statistics(count, total, np.where(live, root, floor), live)


def _range_factor(chunk: int, chunks: int) -> int:
    """σ over the sum of the chunks' ranges for Gaussian data, with ``_FACTOR_BITS`` bits."""
    factor = (
        0.5 * 0.35 * (1 + math.sqrt(math.pi * math.log(4))) / math.sqrt(2 * math.log(max(chunk, 2)))
    )
    return round(factor / chunks * (1 << _FACTOR_BITS))
