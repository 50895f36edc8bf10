"""Running statistics in BatchNorm's own form: equation (9) of docs/mathematics.md."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor
from torch._C import _functorch

from l1bn.ops.records import Running


def count_batch(batches: Tensor) -> None:
    """Add one to a counter in place."""
    if not _is_captured(batches):
        batches.add_(1)
    elif not _is_mapped():
        with _outside_transforms():
            batches.add_(1)


@torch.no_grad()
def update_running_statistics(
    running: Running, mean: Tensor, scale: Tensor, count: int | Tensor, eps: float
) -> None:
    """Move the running statistics in place towards those of a batch.

    A channel keeps its running statistics where those of the batch are not finite, or where the
    new ones would not be finite in their own dtype. There is no device synchronisation. Inside a
    functorch transform that does not own the running statistics, they move as outside of it; under
    ``vmap``, where each example has statistics of its own, they stay.

    Args:
        running: the running statistics, and the weight of the batch.
        mean: mean of the batch.
        scale: σ of the batch, at least √eps.
        count: elements per channel, M; a tensor of one element where processes share it.
        eps: variance floor.

    Shape:
        - mean, scale: ``(C,)``
    """
    if not _is_captured(running.mean):
        _update(running, mean, scale, count, eps)
    elif not _is_mapped():
        momentum = running.momentum
        if isinstance(momentum, Tensor):
            momentum = _unwrapped(momentum)
        if isinstance(count, Tensor):
            count = _unwrapped(count)
        own = Running(running.mean, running.var, momentum)
        with _outside_transforms():
            _update(own, _unwrapped(mean), _unwrapped(scale), count, eps)


def _update(running: Running, mean: Tensor, scale: Tensor, count: int | Tensor, eps: float) -> None:
    averages, momentum = (running.mean, running.var), running.momentum
    # As wide as there is, as the kernels compute: the vectors are short. MPS has no float64.
    wide = torch.float32 if mean.device.type == "mps" else torch.float64
    mean, scale = mean.to(wide), scale.to(wide)
    # At the floor the difference is a rounding error of either sign.
    var = scale.square().sub_(eps).clamp_min_(0).mul_(count / (count - 1))
    # (1 - m)·old + m·new, as BatchNorm computes it.
    new = [
        (old.to(wide) * (1 - momentum) + batch * momentum).to(old.dtype)
        for old, batch in zip(averages, (mean, var), strict=True)
    ]
    finite = mean.isfinite() & var.isfinite() & new[0].isfinite() & new[1].isfinite()
    for old, moved in zip(averages, new, strict=True):
        old.copy_(torch.where(finite, moved, old))


def _is_captured(state: Tensor) -> bool:
    """Whether a transform runs that was not given ``state``, and so forbids writes to it."""
    return (
        not torch.compiler.is_compiling()
        and _functorch.peek_interpreter_stack() is not None
        and not _functorch.is_functorch_wrapped_tensor(state)
    )


def _is_mapped() -> bool:
    from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

    transforms = retrieve_all_functorch_interpreters()
    return any(t.key() == _functorch.TransformType.Vmap for t in transforms)


def _unwrapped(value: Tensor) -> Tensor:
    while _functorch.is_functorch_wrapped_tensor(value):
        value = _functorch.get_unwrapped(value)
    return value


def _outside_transforms() -> contextlib.AbstractContextManager[object]:
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()
