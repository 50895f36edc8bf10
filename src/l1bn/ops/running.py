"""Running statistics in BatchNorm's own form: equation (9) of docs/mathematics.md."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from l1bn.ops.tracing import is_transformed


def count_batch(batches: Tensor) -> None:
    """Add one to a counter in place.

    A counter in the memory of this process is reached there, as the kernels reach the running
    statistics: an operator would cost a sixth of a layer's whole step on a small input.
    """
    if batches.is_cpu and batches.dtype is torch.int64 and not is_transformed(batches):
        ctypes.c_int64.from_address(batches.data_ptr()).value += 1
    else:
        batches.add_(1)


@torch.no_grad()
def update_running_statistics(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    scale: Tensor,
    count: int | Tensor,
    momentum: float | Tensor,
    eps: float,
) -> None:
    """Move the running statistics in place towards those of a batch.

    A channel keeps its running statistics where those of the batch are not finite, or where the
    new ones would not be finite in their own dtype. There is no device synchronisation.

    Args:
        running_mean: moving average of the mean.
        running_var: moving average of ``max(scale² − eps, 0)·M/(M − 1)``.
        mean: mean of the batch.
        scale: σ of the batch, at least √eps.
        count: elements per channel, M; a tensor of one element where processes share it.
        momentum: weight of the batch, a number or a tensor of one element.
        eps: variance floor.

    Shape:
        - running_mean, running_var, mean, scale: :math:`(C,)`
    """
    # As wide as there is, as the kernels compute: the vectors are short. MPS has no float64.
    wide = torch.float32 if mean.device.type == "mps" else torch.float64
    mean, scale = mean.to(wide), scale.to(wide)
    # At the floor the difference is a rounding error of either sign.
    var = scale.square().sub_(eps).clamp_min_(0).mul_(count / (count - 1))
    # (1 - m)·old + m·new, as BatchNorm computes it.
    new = [
        (running.to(wide) * (1 - momentum) + batch * momentum).to(running.dtype)
        for running, batch in ((running_mean, mean), (running_var, var))
    ]
    finite = mean.isfinite() & var.isfinite() & new[0].isfinite() & new[1].isfinite()
    for running, moved in zip((running_mean, running_var), new, strict=True):
        running.copy_(torch.where(finite, moved, running))
