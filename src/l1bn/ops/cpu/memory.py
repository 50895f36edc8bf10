"""The one guard before every address that a native kernel is given.

A tensor's values are not always what lies at its address: a negative view has another sign, a zero
tensor has no memory, a fake or transformed one no values. The guard asks for the tensor's dispatch
keys, which tell all of these apart at once, and lets through only what is on its list: a strided
CPU tensor whose memory holds its values as they are. What can be brought into that form is; the
rest is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

CPU = torch.device("cpu")


def _keys(v: Tensor) -> int:
    keys: int = torch._C._dispatch_keys(v).raw_repr()
    return keys


def _list() -> frozenset[int]:
    plain = torch.empty(0, device=CPU)
    with torch.inference_mode():
        return frozenset({_keys(plain), _keys(torch.empty(0, device=CPU))})


_ORDINARY = _list()


def is_ordinary(v: Tensor) -> bool:
    """Whether the values of ``v`` lie at its address, in the memory of this process."""
    return _keys(v) in _ORDINARY


def ordinary(v: Tensor) -> Tensor:
    """Return ``v``, or the same values as an ordinary tensor.

    Raises:
        TypeError: it has no values in the memory of this process.
    """
    if _keys(v) in _ORDINARY:
        return v
    if v.is_cpu and v.layout is torch.strided:
        found = torch.zeros(v.shape, dtype=v.dtype, device=CPU) if v._is_zerotensor() else v
        found = found.resolve_neg()
        if _keys(found) in _ORDINARY:
            return found
    raise TypeError(
        f"expected a strided tensor in this process's memory, got {type(v).__name__} of layout "
        f"{v.layout} on {v.device}: use backend='eager', or hand back plain CPU tensors where "
        "saved tensors are unpacked"
    )


def address(v: Tensor | None) -> int:
    """Address of the first value of an ordinary tensor, 0 for None.

    Strides are the caller's to bring about, see ``l1bn.ops.cpu.layout``.

    Raises:
        TypeError: the tensor is not ordinary.
    """
    if v is None:
        return 0
    if _keys(v) not in _ORDINARY:
        raise TypeError(
            f"expected memory for a native kernel, got {type(v).__name__} on {v.device}: "
            "leave the mode that makes such tensors, or use backend='eager'"
        )
    return v.data_ptr()
