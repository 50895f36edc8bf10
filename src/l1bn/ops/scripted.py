"""L1BN for TorchScript, which compiles a small part of Python only."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def train(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize with batch statistics, as ``l1bn.ops.formula.train`` does.

    Returns:
        ``(y, mean, scale)``, the statistics detached.
    """
    low = x.dtype == torch.float16 or x.dtype == torch.bfloat16
    wide = x.float() if low else x
    dims = [0] + [i for i in range(2, x.dim())]  # noqa: C416 - TorchScript takes no other
    mean = wide.mean(dims, keepdim=True)
    centred = wide - mean
    sign = torch.where(centred.detach() >= 0, 1.0, -1.0).to(wide.dtype)
    deviation = math.sqrt(math.pi / 2) * (centred * sign).mean(dims, keepdim=True)
    floor = math.sqrt(eps)
    scale = torch.where(deviation <= floor, torch.full_like(deviation, floor), deviation)
    z = centred / scale
    if weight is not None:
        z = z * weight.to(z.dtype).view(mean.shape)
    if bias is not None:
        z = z + bias.to(z.dtype).view(mean.shape)
    return z.to(x.dtype), mean.detach().flatten(), scale.detach().flatten()


def update(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    scale: Tensor,
    count: int,
    momentum: Tensor,
    eps: float,
) -> None:
    """Move the running statistics, as ``l1bn.ops.running.update_running_statistics`` does."""
    with torch.no_grad():
        var = (scale.square() - eps).clamp_min(0) * (count / (count - 1))
        finite = mean.isfinite() & var.isfinite()
        old_mean, old_var = running_mean.to(mean.dtype), running_var.to(mean.dtype)
        new_mean = old_mean * (1 - momentum) + mean * momentum
        new_var = old_var * (1 - momentum) + var * momentum
        running_mean.copy_(torch.where(finite, new_mean, old_mean))
        running_var.copy_(torch.where(finite, new_var, old_var))
