"""Sign bits of a fixed size with room behind them for the input, where that has to be kept.

Whether x̂ can be recovered from the output is known only once there are values, but a compiler
fixes the sizes of an operator's results before. So an operator's bits are a tensor of a fixed size
at the beginning of a storage, and in the rare case the storage goes on: the input lies behind. It
lives as long as the bits, and takes memory only then. The last byte of the bits says so. A copy of
the bits has no such storage, and is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.ops.cpu.layout import Layout, bits_bytes, from_dense
from l1bn.ops.cpu.memory import CPU

#: Bytes after the kernels' bits. The last one tells whether the input lies behind.
FLAG = 2
_ALIGNMENT = 64


def size(layout: Layout) -> int:
    """Bytes of the bits with their flag; for symbolic sizes too."""
    return bits_bytes(layout) + FLAG


def clear_flag(bits: Tensor, layout: Layout) -> None:
    """Say that the bits serve, and clear what the kernels leave between them and the flag."""
    outer, channels, inner = layout
    last = channels if inner == 1 else inner
    used = (outer * channels * inner + 15) // 16 * 2 if last < 16 else bits_bytes(layout)
    bits[used:] = 0


def spill(x: Tensor, layout: Layout) -> Tensor:
    """Bits that say nothing, with a copy of ``x`` behind them.

    Shape:
        - x: ``(N, C, *)``
        - Output: ``(size(layout),)``
    """
    start, end = _place(layout, x.element_size())
    memory = torch.empty(end, dtype=torch.uint8, device=CPU)
    from_dense(memory[start:].view(x.dtype), layout, x.shape).copy_(x)
    bits = _beginning(memory.untyped_storage(), layout)
    bits.zero_()[-1] = 1
    return bits


def spilled(bits: Tensor, layout: Layout, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
    """The input behind the bits, or None where the bits serve.

    Raises:
        RuntimeError: it was there, but these bits are a copy.
    """
    if not bits[-1]:
        return None
    storage = bits.untyped_storage()
    start, end = _place(layout, dtype.itemsize)
    if storage.nbytes() != end or bits.storage_offset() != 0:
        raise RuntimeError(
            "expected the sign bits that a compiled forward saved, got a copy of them without the "
            "input that they were saved with (a γ is too small to recover it from the output): "
            "hand back the saved tensors themselves, or set the layers' backend to 'eager' before "
            "torch.compile"
        )
    memory = torch.empty(0, dtype=torch.uint8, device=CPU).set_(storage)
    return from_dense(memory[start:].view(dtype), layout, shape)


def _place(layout: Layout, item: int) -> tuple[int, int]:
    """Where the input begins and ends, in bytes."""
    outer, channels, inner = layout
    start = -(-size(layout) // _ALIGNMENT) * _ALIGNMENT
    return start, start + outer * channels * inner * item


def _beginning(storage: torch.UntypedStorage, layout: Layout) -> Tensor:
    empty = torch.empty(0, dtype=torch.uint8, device=CPU)
    return empty.set_(storage, 0, (size(layout),), (1,))
