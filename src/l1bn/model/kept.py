"""How much memory a forward pass keeps for backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def kept_bytes(forward: Callable[[], object], parameters: Iterable[Tensor]) -> int:
    """Bytes of distinct memory that a call keeps for backward.

    Each memory counts once, however many operations keep it.

    Args:
        forward: the call. What it returns is dropped.
        parameters: do not count: they are in memory anyway.
    """
    known = {p.untyped_storage()._cdata for p in parameters}
    kept: list[Tensor] = []  # alive, so that no address is used twice

    def pack(v: Tensor) -> None:
        at = v.untyped_storage()._cdata
        if at not in known:
            known.add(at)
            kept.append(v)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
        forward()
    size = sum(v.untyped_storage().nbytes() for v in kept)
    kept.clear()  # the graph holds `pack`, which holds this, which holds the graph
    return size
