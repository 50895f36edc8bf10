"""Taking over a gradient that nobody but the running backward call can see.

Its memory is then free for the input's gradient: fresh memory costs more to map than to fill.
PyTorch itself adds into a gradient, or makes it a parameter's own, where nothing else refers to it.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

__all__ = ["Gradients", "take_first"]

#: What ``backward(ctx, *grads)`` is given: one list of the gradients, of which it may take them
#: (``boxed_grads_call = True``), or from an older torch the gradients themselves.
Gradients = tuple[Any, ...]

#: Smaller gradients are left: the allocator has memory of that size at hand [bytes].
WORTHWHILE = 1 << 16


def _taken(box: list[Any]) -> tuple[Any, int]:
    """Take an object from its list; with the number of references that there are to it now."""
    thing = box[0]
    box[0] = None
    return thing, sys.getrefcount(thing)


def _taken_storage(tensor: Tensor) -> tuple[Any, int]:
    return _taken([tensor.untyped_storage()])


#: The number of references to an object that nobody else holds, and to the storage object of a
#: tensor; they depend on the interpreter and on torch.
_ALONE = _taken([object()])[1]
_STORAGE_ALONE = _taken_storage(torch.empty(1, device="cpu"))[1]


def take_first(grads: Gradients) -> tuple[Tensor | None, list[Tensor | None], bool]:
    """Take the first gradient, and tell whether it may be overwritten.

    Where that is not certain the answer is no: older torch, a subclass, a part of a larger storage,
    memory that torch does not own, a derivative that is recorded.

    Args:
        grads: what ``backward`` was given, by the engine or by a direct call.

    Returns:
        ``(first gradient, the others, whether the first is spare)``
    """
    if not (grads and isinstance(grads[0], list)):
        return grads[0], list(grads[1:]), False
    box = grads[0]
    grad, references = _taken(box)
    return grad, box[1:], references == _ALONE and _is_sole_owner(grad)


def _is_sole_owner(grad: Tensor | None) -> bool:
    """Whether nothing but one reference from Python leads to the gradient's memory."""
    if type(grad) is not Tensor or grad.nbytes < WORTHWHILE or torch.is_grad_enabled():
        return False
    # Private, but there is no other way to ask; where they are missing nothing is spare.
    uses = getattr(grad, "_use_count", None)
    storage_uses = getattr(torch._C, "_storage_Use_Count", None)
    if uses is None or storage_uses is None or uses() != 1:
        return False
    storage, references = _taken_storage(grad)
    # Two uses of the memory: the gradient's and that of `storage`.
    if references != _STORAGE_ALONE or storage_uses(storage._cdata) != 2:
        return False
    return storage.nbytes() == grad.nbytes and storage.resizable()
