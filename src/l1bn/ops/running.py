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

    A channel whose batch statistics are not finite keeps its running statistics. There is no
    device synchronisation.

    Args:
        running_mean: moving average of the mean.
        running_var: moving average of ``(scale² − eps)·M/(M − 1)``.
        mean: mean of the batch.
        scale: σ of the batch, at least √eps.
        count: elements per channel, M; a tensor of one element where processes share it.
        momentum: weight of the batch, a number or a tensor of one element.
        eps: variance floor.

    Shape:
        - running_mean, running_var, mean, scale: :math:`(C,)`
    """
    var = scale.square().sub_(eps).mul_(count / (count - 1))
    finite = mean.isfinite() & var.isfinite()
    for running, batch in ((running_mean, mean), (running_var, var)):
        old = running.to(batch.dtype)
        # (1 - m)·old + m·new, as BatchNorm computes it.
        new = old * (1 - momentum) + batch * momentum
        running.copy_(torch.where(finite, new, old))
