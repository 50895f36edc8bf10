"""L1BN whose statistics leave padded elements out, on any device, by autograd."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from l1bn.ops import formula
from l1bn.ops.records import Call


def train(
    x: Tensor, mask: Tensor, residual: Tensor | None, call: Call
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize every element with the statistics of those where ``mask`` is True.

    Returns:
        ``(y, mean, scale, count)``; the last three detached, ``count`` the elements per channel.

    Shape:
        - x, residual, y: ``(N, C, *)``
        - mask: ``(N, 1, *)`` or what broadcasts to it
        - mean, scale: ``(C,)``
    """
    wide = x.to(formula.accumulate_dtype(x.dtype))
    dims = formula.reduce_dims(x)
    kept = mask.expand(x.shape[0], 1, *x.shape[2:])
    # No element at all: a mean of 0 in the place of 0/0.
    count = kept.sum().clamp_min(1).to(wide.dtype)
    # What is left out may be anything, NaN included.
    mean = torch.where(kept, wide, 0.0).sum(dims) / count
    centred = wide - formula.per_channel(mean, x)
    sign = torch.where(centred.detach() >= 0, 1.0, -1.0).to(wide.dtype)
    deviation = formula.K * torch.where(kept, centred * sign, 0.0).sum(dims) / count
    floor = math.sqrt(call.eps)
    scale = torch.where(deviation <= floor, torch.full_like(deviation, floor), deviation)
    y = formula.affine(centred, scale, residual, call, x.dtype)
    return y, mean.detach(), scale.detach(), count.detach()
