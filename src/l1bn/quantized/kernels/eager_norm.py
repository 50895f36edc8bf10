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
from l1bn.quantized.kernels.interface import NormState, per_channel

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
        count=count,
        total=python_numbers(total),
        threshold=threshold.cpu().numpy(),
        above=python_numbers(n),
        deviation=np.where(live, deviation, floor),
        live=live,
        second_pass=np.zeros(len(live), dtype=bool),
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


def statistics_of(state: NormState) -> L1Statistics:
    """The judge's view of a state of any backend."""
    live = np.array(state.live.tolist(), dtype=bool)
    return L1Statistics(
        count=state.count,
        total=python_numbers(state.total),
        threshold=state.threshold.numpy().astype(np.int64),
        above=python_numbers(state.above),
        deviation=python_numbers(state.deviation),
        live=live,
        second_pass=~live,
    )


def channel_of(state: EagerState) -> Channel:
    """The judge's view with its scalars. The mantissa of 1/σ is not needed any more."""
    exponent = python_numbers(state.exponent)
    reciprocal = Reciprocal(np.zeros_like(exponent), exponent)
    coefficient, shift = python_numbers(state.coefficient), python_numbers(state.shift)
    return Channel(statistics_of(state), coefficient, shift, reciprocal)


def l1_products(g: Tensor, x: Tensor, state: EagerState, slopes: Slopes) -> Tensor:
    """Return the input gradient before its last shift, int32."""
    coefficient, low, high, threshold = (
        per_channel(a.int(), x)
        for a in (state.coefficient, tensor_of(slopes.low), tensor_of(slopes.high), state.threshold)
    )
    return g * coefficient + torch.where(x >= threshold, high, low)
