"""γ, β and the running statistics of an integer normalization."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from l1bn.fixed_point.formats import IntArray
from l1bn.fixed_point.norm.constant import (
    Sides,
    batch_mean,
    settle,
    share,
    threshold_of,
    toward,
)
from l1bn.fixed_point.norm.running import MOMENTUM_BITS, RUNNING_BITS, Running
from l1bn.fixed_point.norm.spec import NormSpec
from l1bn.fixed_point.norm.statistics import L1Statistics, L2Statistics
from l1bn.fixed_point.scaling import MAX_SHIFT
from l1bn.quantized.parameter import IntegerParameter
from l1bn.quantized.scaling import follow

_AFFINE_RANGE_BITS = 4  # masters of γ and β hold ±8
_LARGEST_GAMMA = 127 / 64
_LARGEST_BETA = 127 / 16
_STEPS_BITS = 4  # a float checkpoint's σ becomes 16 to 32 steps, fewer where |μ| is large


class NormBuffers(nn.Module):
    """Integer state of one normalization layer.

    The running mean and variance count steps of ``2**running_exponent``, one exponent per channel;
    it follows the exponents of the data.

    Attributes:
        gamma: Scale.
        beta: Shift.
        running_mean: μ · 2**16, int32.
        running_var: σ² · 2**16, int32.
        running_exponent: Exponent of the steps, int32.
        num_batches_tracked: Batches seen, int64.

    Args:
        name: Name of the float layer.
        norm: The float layer, BatchNorm's state.
        bits: Bits of the masters [bit].
        momentum: Share of a batch in the running statistics; None takes the float layer's.

    Raises:
        ValueError: If the layer's averages have no fixed momentum, or γ or β does not fit 8 bits.
    """

    running_mean: Tensor
    running_var: Tensor
    running_exponent: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        name: str,
        norm: nn.modules.batchnorm._BatchNorm,
        bits: int = 16,
        momentum: float | None = None,
    ) -> None:
        super().__init__()
        if norm.momentum is None or norm.running_mean is None or norm.running_var is None:
            raise ValueError(
                f"{name}: expected running statistics with a momentum, got momentum "
                f"{norm.momentum}, track_running_stats {norm.track_running_stats}; integer "
                "training has no cumulative averages: set momentum, for example to 0.1"
            )
        channels = norm.num_features
        weight = torch.ones(channels) if norm.weight is None else norm.weight
        bias = torch.zeros(channels) if norm.bias is None else norm.bias
        _check_range(name, "weight", weight, _LARGEST_GAMMA)
        _check_range(name, "bias", bias, _LARGEST_BETA)
        exponent = _AFFINE_RANGE_BITS - bits
        self.gamma = IntegerParameter(weight, bits, exponent, name=f"{name}.weight")
        self.beta = IntegerParameter(bias, bits, exponent, name=f"{name}.bias")
        self.gamma.fixed_value = self.beta.fixed_value = not norm.affine
        fraction = norm.momentum if momentum is None else momentum
        self.momentum = max(1, round(fraction * (1 << MOMENTUM_BITS)))
        state = _from_float(norm.running_mean, norm.running_var)
        for buffer, value in zip(("mean", "var", "exponent"), state, strict=True):
            self.register_buffer(f"running_{buffer}", value.to(norm.running_mean.device))
        batches = norm.num_batches_tracked
        seen = torch.zeros((), dtype=torch.int64) if batches is None else batches.clone()
        self.register_buffer("num_batches_tracked", seen)

    def running(self, exponent: Tensor) -> Running:
        """Return the running statistics in steps of the given exponents.

        Shape:
            - exponent: ``(C,)``
        """
        shift = exponent.cpu().long() - self.running_exponent.cpu().long()
        return self._running().rescaled(shift.numpy())

    def _running(self) -> Running:
        mean, variance = (b.cpu().long().numpy() for b in (self.running_mean, self.running_var))
        return Running(mean, variance)

    def update(self, statistics: L1Statistics | L2Statistics, exponent: Tensor) -> None:
        """Move toward the statistics of a batch; the first batch replaces an untrained state.

        Shape:
            - exponent: ``(C,)``, that of each channel of the batch
        """
        seen = exponent.cpu().int()
        if int(self.num_batches_tracked) == 0:
            now, exponents = Running.of(statistics), seen
        else:
            old = self.running_exponent.cpu()
            exponents = follow(old, seen)
            before = self._running().rescaled((exponents - old).long().numpy())
            step = (exponents - seen).long().numpy()
            now = before.update(statistics, self.momentum, step)
        self._store(now, exponents)

    def shift(self, exponent: int) -> Tensor:
        """Return the right shift that brings sums to the steps of the averages.

        Args:
            exponent: Exponent of the sums.

        Shape:
            - Output: ``(C,)``
        """
        return (self.running_exponent.cpu() - exponent).clamp(0, MAX_SHIFT)

    def moving(
        self, sums: Callable[[IntArray], Sides], exponent: Tensor
    ) -> tuple[Running, Running]:
        """Return the averages before a batch and after it, in its steps.

        Without any before, the first batch's own come first.

        Args:
            sums: Sums both sides of a threshold, in the batch.
            exponent: Exponents of the batch.

        Shape:
            - exponent: ``(C,)``
        """
        batches = int(self.num_batches_tracked)
        if batches:
            now = self.running(exponent)
            return now, toward(now, sums(threshold_of(now)), share(self.momentum, batches))
        nothing = np.zeros(len(exponent), dtype=np.int64)
        start = Running(batch_mean(sums(nothing)), nothing)
        first = toward(start, sums(threshold_of(start)), 1 << MOMENTUM_BITS)
        return first, first

    def settle(self, running: Running, exponent: Tensor, seen: Tensor) -> None:
        """Keep averages, in the steps that suit them.

        Args:
            running: What ``moving`` found.
            exponent: Exponents of its steps.
            seen: Exponents that the batch alone needs.

        Shape:
            - exponent, seen: ``(C,)``
        """
        kept, exponents = settle(running, exponent.cpu().numpy(), seen.cpu().numpy())
        self._store(kept, torch.from_numpy(exponents).int())

    def _store(self, running: Running, exponents: Tensor) -> None:
        self.running_mean.copy_(torch.from_numpy(running.mean))
        self.running_var.copy_(torch.from_numpy(running.variance))
        self.running_exponent.copy_(exponents)
        self.num_batches_tracked += 1

    def codes(self, spec: NormSpec) -> tuple[Tensor, Tensor]:
        """Return γ and β in the 8-bit formats of the normalization.

        Shape:
            - Output: ``(C,)``, ``(C,)``
        """
        return self.gamma.fixed(-spec.gamma.fraction), self.beta.fixed(-spec.output.fraction)

    def real(self) -> tuple[Tensor, Tensor]:
        """Return running mean and variance as float32."""
        step = torch.ldexp(torch.ones_like(self.running_mean.float()), self.running_exponent)
        scale = 2.0**-RUNNING_BITS
        return self.running_mean * scale * step, self.running_var * scale * step * step


def _check_range(name: str, what: str, value: Tensor, largest: float) -> None:
    peak = float(value.detach().abs().max()) if value.numel() else 0.0
    if not peak <= largest:
        raise ValueError(
            f"{name}.{what}: expected values within ±{largest:.4g}, which 8 bits hold, got "
            f"{peak:.4g}; train the float network with weight decay on its norms, or rescale them"
        )


def _from_float(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean64, var64 = mean.double().cpu().numpy(), variance.double().cpu().numpy()
    sigma = np.sqrt(np.maximum(var64, 1e-30))
    reach = np.abs(mean64) + 4 * sigma  # what 8 bits must hold
    exponent = [
        max(math.floor(math.log2(s)) - _STEPS_BITS, math.ceil(math.log2(r / 127)))
        for s, r in zip(sigma.tolist(), reach.tolist(), strict=True)
    ]
    step = np.ldexp(1.0, exponent)
    limit = (1 << 31) - 1
    codes = (
        np.clip(np.round(v * 2.0**RUNNING_BITS), -limit, limit).astype(np.int32)
        for v in (mean64 / step, var64 / step**2)
    )
    found = [torch.from_numpy(c) for c in codes]
    return found[0], found[1], torch.tensor(exponent, dtype=torch.int32)
