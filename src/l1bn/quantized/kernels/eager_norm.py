"""The numbers of a channel in the eager backend: Python's integers, by the judge's functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from l1bn.fixed_point.norm.backward import Slopes
from l1bn.fixed_point.norm.normalize import Channel, Reciprocal
from l1bn.fixed_point.norm.spec import NormSpec
from l1bn.fixed_point.norm.statistics import L1Statistics
from l1bn.quantized.kernels.interface import per_channel

_Numbers = npt.NDArray[np.object_]


@dataclass(frozen=True)
class EagerState:
    """A ``NormState``, with the scalars of the backward pass."""

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
class EagerGradient:
    """A ``NormGradient``."""

    dx: Tensor
    exponent: int
    dresidual: Tensor | None
    dgamma: Tensor
    dbeta: Tensor


def all_but_channels(x: Tensor) -> list[int]:
    """Return the dimensions that a channel's statistics run over."""
    return [d for d in range(x.dim()) if d != 1]


def channel_peak(value: Tensor) -> Tensor:
    """Return the largest magnitude of each channel, on the CPU."""
    if value.numel() == 0:
        return value.new_zeros(value.shape[1])
    return value.abs().amax(all_but_channels(value)).cpu()


def python_numbers(values: Tensor) -> _Numbers:
    """Per-channel numbers as Python integers, which cannot overflow."""
    return np.array(values.tolist(), dtype=object)


def tensor_of(values: _Numbers) -> Tensor:
    """Return Python's integers as int64."""
    return torch.tensor(values.tolist(), dtype=torch.int64)


def l1_statistics(x: Tensor, spec: NormSpec) -> L1Statistics:
    """Return the statistics of each channel."""
    dims, count = all_but_channels(x), x.numel() // x.shape[1]
    total = x.sum(dims)
    threshold = -((-total) // count)
    above = x >= per_channel(threshold, x)
    n, high = above.sum(dims), torch.where(above, x, 0).sum(dims)
    deviation = 2 * (count * python_numbers(high) - python_numbers(n) * python_numbers(total))
    floor = spec.deviation_floor(count)
    live = deviation > floor
    return L1Statistics(
        count,
        python_numbers(total),
        threshold.cpu().numpy(),
        python_numbers(n),
        np.where(live, deviation, floor),
        live,
        np.zeros(len(live), dtype=bool),
    )


def state_of(channel: Channel) -> EagerState:
    """Return a channel's numbers as tensors."""
    s = channel.statistics
    assert isinstance(s, L1Statistics)
    return EagerState(
        count=s.count,
        total=tensor_of(s.total),
        threshold=torch.from_numpy(s.threshold),
        above=tensor_of(s.above),
        deviation=tensor_of(s.deviation),
        live=torch.from_numpy(s.live.astype(bool)),
        coefficient=tensor_of(channel.coefficient),
        shift=tensor_of(channel.shift),
        exponent=tensor_of(channel.reciprocal.exponent),
    )


def channel_of(state: EagerState) -> Channel:
    """The judge's view of a state. The mantissa of 1/σ is not needed any more."""
    live = np.array(state.live.tolist(), dtype=bool)
    total, deviation = python_numbers(state.total), python_numbers(state.deviation)
    threshold, above = state.threshold.numpy(), python_numbers(state.above)
    statistics = L1Statistics(state.count, total, threshold, above, deviation, live, ~live)
    exponent = python_numbers(state.exponent)
    reciprocal = Reciprocal(np.zeros_like(exponent), exponent)
    return Channel(
        statistics, python_numbers(state.coefficient), python_numbers(state.shift), reciprocal
    )


def l1_products(g: Tensor, x: Tensor, state: EagerState, slopes: Slopes) -> Tensor:
    """Return the input gradient before its last shift, int32."""
    coefficient, low, high, threshold = (
        per_channel(a.int(), x)
        for a in (state.coefficient, tensor_of(slopes.low), tensor_of(slopes.high), state.threshold)
    )
    return g * coefficient + torch.where(x >= threshold, high, low)
