"""The one guard before every address that a native kernel is given.

A tensor's values are not always what lies at its address: a negative view has another sign, a zero
tensor has no memory, a fake or transformed one no values. The guard asks for the tensor's dispatch
keys, which tell all of these apart at once, and lets through only what is on its list: a strided
CPU tensor whose memory holds its values as they are. What can be brought into that form is; the
rest is refused.

Large results come from a pool of the library's own (``l1bn.memory``).

What passed is an ``Ordinary``, and only of those there are addresses: the type checker sees to it
that the guard, which takes a microsecond, stands before each of them, and once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NewType, TypeGuard

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from l1bn.ops.native.pool import DIMENSIONS, pool

CPU = torch.device("cpu")

#: From so many bytes on memory comes from the pool, in large pages (``kLarge`` of csrc/memory).
#: Less than that malloc keeps itself.
POOLED = 4 << 20
#: The elements' types as DLPack writes them: code and bits.
_KINDS = {
    torch.float32: (2, 32),
    torch.float64: (2, 64),
    torch.float16: (2, 16),
    torch.bfloat16: (4, 16),
    torch.uint8: (1, 8),
}
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

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


def empty_run(count: int, dtype: torch.dtype) -> Ordinary:
    """New memory for elements side by side; there may be many."""
    size = count * dtype.itemsize
    taken = _from_pool(dtype, size, (count,), (1,)) if size >= POOLED else None
    return empty((count,), dtype) if taken is None else taken


def _is_dense(v: Tensor) -> bool:
    last = _LAST.get(v.dim())
    return v.is_contiguous() or (last is not None and v.is_contiguous(memory_format=last))


def _from_pool(
    dtype: torch.dtype, size: int, shape: Sequence[int], strides: Sequence[int]
) -> Ordinary | None:
    """Memory of the pool, or None where there is none or a mode makes other tensors."""
    source = pool()
    if (
        source is None
        or not source.enabled
        or len(shape) > DIMENSIONS
        or torch._C._len_torch_dispatch_stack()
    ):
        return None
    capsule = source.take(size, _KINDS[dtype], shape, strides)
    return None if capsule is None else Ordinary(from_dlpack(capsule))


def empty_like(v: Ordinary) -> Ordinary:
    """New memory with the shape, dtype and strides of a dense tensor.

    Raises:
        TypeError: a mode is on that makes tensors without memory.
    """
    if v.nbytes >= POOLED:
        taken = _from_pool(v.dtype, v.nbytes, v.shape, v.stride()) if _is_dense(v) else None
        if taken is not None:
            return taken
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
