"""Whether a gradient can be seen by nobody but the backward call that was given it.

Its memory is then free to take the input's gradient: fresh memory costs more to map than to fill.
PyTorch accumulates into a gradient, or keeps it as a parameter's own, on the same condition.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch import Tensor

__all__ = ["is_spare"]

#: Below this fresh memory comes from where it lay before [bytes].
WORTHWHILE = 1 << 16

#: References from Python to a tensor, uses of it in C++, and uses of its memory.
_References = tuple[int, int, int]


def _references(grads: tuple[Tensor | None, ...]) -> _References:
    # Private: C++ has them as use_count(). Where they are missing nothing is spare.
    storage = grads[0].untyped_storage()  # type: ignore[union-attr]
    uses = torch._C._storage_Use_Count(storage._cdata)
    return sys.getrefcount(grads[0]), grads[0]._use_count(), uses  # type: ignore[union-attr]


class _Probe(torch.autograd.Function):
    """Notes the references to the gradient that its backward is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: list[_References]) -> Tensor:
        ctx.seen = seen
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.seen.append(_references(grads))
        return grads[0].clone(), None


def _seen(held: str) -> _References:
    """The references to a gradient that a hook, a clone of its memory or nobody holds."""
    seen: list[_References] = []
    keep: list[Any] = []
    with torch.enable_grad():
        x = torch.ones(2, dtype=torch.float32, device="cpu", requires_grad=True)
        y = _Probe.apply(x, seen)
        if held == "tensor":
            y.register_hook(keep.append)
        elif held == "memory":
            y.register_hook(lambda grad: keep.append(grad.detach()))
        torch.autograd.grad((y * 2).sum() + (y * 3).sum(), x)
    return seen[0]


@functools.cache
def _alone() -> _References | None:
    """The references to a gradient that nobody else holds.

    None where this interpreter or this torch does not tell them apart.
    """
    try:
        alone, tensor, memory, again = (_seen(held) for held in ("", "tensor", "memory", ""))
    except (AttributeError, RuntimeError):
        return None
    told_apart = tensor[0] > alone[0] and memory[2] > alone[2] and alone[1] == 1
    return alone if told_apart and again == alone else None


def _watched() -> bool:
    """Whether a mode sees the operators, and may keep what they are given."""
    return bool(torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack())


def is_spare(grads: tuple[Tensor | None, ...]) -> bool:
    """Tell whether the first of the gradients that ``backward`` was given may be overwritten.

    To be called by ``backward(ctx, *grads)`` itself, before it takes a reference of its own. Where
    the answer is not certain it is False: a small tensor, a subclass, memory that torch does not
    own, an active mode, a derivative that is recorded.

    Args:
        grads: the tuple of the call.
    """
    if type(grads[0]) is not Tensor or grads[0].nbytes < WORTHWHILE:
        return False
    if torch.is_grad_enabled() or _watched():
        return False
    alone = _alone()
    if alone is None or _references(grads) != alone:
        return False
    return grads[0].untyped_storage().resizable()
