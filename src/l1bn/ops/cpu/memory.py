"""The one guard before every address that a native kernel is given.

A tensor's values are not always what lies at its address: a negative view has another sign, a zero
tensor has no memory, a fake or transformed one no values. The guard asks for the tensor's dispatch
keys, which tell all of these apart at once, and lets through only what is on its list: a strided
CPU tensor whose memory holds its values as they are. What can be brought into that form is; the
rest is refused.

What passed is an ``Ordinary``, and only of those there are addresses: the type checker sees to it
that the guard, which takes a microsecond, stands before each of them, and once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NewType, TypeGuard

import torch
from torch import Tensor

CPU = torch.device("cpu")

#: A tensor whose values lie at its address. Made by the functions of this file alone.
Ordinary = NewType("Ordinary", Tensor)


def _keys(v: Tensor) -> int:
    keys: int = torch._C._dispatch_keys(v).raw_repr()
    return keys


def _list() -> frozenset[int]:
    plain = torch.empty(0, device=CPU)
    with torch.inference_mode():
        return frozenset({_keys(plain), _keys(torch.empty(0, device=CPU))})


_ORDINARY = _list()


def is_ordinary(v: Tensor) -> TypeGuard[Ordinary]:
    """Whether the values of ``v`` lie at its address, in the memory of this process."""
    return _keys(v) in _ORDINARY


def ordinary(v: Tensor) -> Ordinary:
    """Return ``v``, or the same values as an ordinary tensor.

    Raises:
        TypeError: it has no values in the memory of this process.
    """
    if is_ordinary(v):
        return v
    if v.is_cpu and v.layout is torch.strided:
        found = torch.zeros(v.shape, dtype=v.dtype, device=CPU) if v._is_zerotensor() else v
        found = found.resolve_neg()
        if is_ordinary(found):
            return found
    raise TypeError(
        f"expected a strided tensor in this process's memory, got {type(v).__name__} of layout "
        f"{v.layout} on {v.device}: use backend='eager', or hand back plain CPU tensors where "
        "saved tensors are unpacked"
    )


def contiguous(v: Ordinary) -> Ordinary:
    """Return ``v``, or a copy without gaps."""
    return Ordinary(v if v.is_contiguous() else v.contiguous())


def empty(shape: Sequence[int], dtype: torch.dtype) -> Ordinary:
    """New memory. No mode that makes other tensors may be on, which ``empty_like`` checks."""
    return Ordinary(torch.empty(shape, dtype=dtype, device=CPU))


def empty_like(v: Ordinary) -> Ordinary:
    """New memory with the shape, dtype and strides of a dense tensor.

    Raises:
        TypeError: a mode is on that makes tensors without memory.
    """
    found = torch.empty_like(v)
    if is_ordinary(found):
        return found
    raise TypeError(
        f"expected memory for a native kernel, got {type(found).__name__} on {found.device}: "
        "leave the mode that makes such tensors, or use backend='eager'"
    )


def alias(v: Ordinary) -> Ordinary:
    """The same memory as another tensor."""
    return Ordinary(v.detach())


def address(v: Ordinary | None) -> int:
    """Address of the first value, 0 for None.

    Strides are the caller's to bring about, see ``l1bn.ops.cpu.layout``.
    """
    return 0 if v is None else v.data_ptr()
