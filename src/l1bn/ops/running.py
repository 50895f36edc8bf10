"""Running statistics in BatchNorm's own form: equation (9) of docs/mathematics.md."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch

from l1bn.ops.tracing import is_transformed


def count_batch(batches: Tensor) -> None:
    """Add one to a counter in place."""
    if not is_transformed(batches) or not _is_captured(batches):
        batches.add_(1)
    elif not _is_mapped():
        with _outside_transforms():
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
    new ones would not be finite in their own dtype. There is no device synchronisation. Inside a
    functorch transform that does not own the running statistics, they move as outside of it; under
    ``vmap``, where each example has statistics of its own, they stay.

    Args:
        running_mean: moving average of the mean.
        running_var: moving average of ``max(scale² − eps, 0)·M/(M − 1)``.
        mean: mean of the batch.
        scale: σ of the batch, at least √eps.
        count: elements per channel, M; a tensor of one element where processes share it.
        momentum: weight of the batch, a number or a tensor of one element.
        eps: variance floor.

    Shape:
        - running_mean, running_var, mean, scale: ``(C,)``
    """
    if not _is_captured(running_mean):
        _update(running_mean, running_var, mean, scale, count, momentum, eps)
    elif not _is_mapped():
        mean, scale, count, momentum = (_unwrapped(v) for v in (mean, scale, count, momentum))
        with _outside_transforms():
            _update(running_mean, running_var, mean, scale, count, momentum, eps)


def _update(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    scale: Tensor,
    count: int | Tensor,
    momentum: float | Tensor,
    eps: float,
) -> None:
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


def _unwrapped(value: Any) -> Any:
    while isinstance(value, Tensor) and _functorch.is_functorch_wrapped_tensor(value):
        value = _functorch.get_unwrapped(value)
    return value


def _outside_transforms() -> contextlib.AbstractContextManager[object]:
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()
