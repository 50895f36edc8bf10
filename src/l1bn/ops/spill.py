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

_ALIGNMENT = 64


def spill(x: Tensor, size: int) -> Tensor:
    """Bits that say nothing, with a copy of ``x`` behind them.

    Args:
        x: a dense tensor in any order.
        size: bytes of the bits with their flag.

    Shape:
        - Output: ``(size,)``
    """
    start = _start(size)
    end = start + x.numel() * x.element_size()
    memory = torch.empty(end, dtype=torch.uint8, device=x.device)
    memory[start:].view(x.dtype).as_strided(x.shape, x.stride()).copy_(x)
    bits = _at(memory, size)
    bits.zero_()[-1] = 1
    return bits


def behind(bits: Tensor, elements: int, dtype: torch.dtype) -> Tensor | None:
    """What ``spill`` put behind the bits, or None where the storage holds nothing of that size.

    Shape:
        - Output: ``(elements,)``
    """
    storage = bits.untyped_storage()
    start = _start(bits.numel())
    if storage.nbytes() != start + elements * dtype.itemsize or bits.storage_offset() != 0:
        return None
    memory = torch.empty(0, dtype=torch.uint8, device=bits.device).set_(storage)
    return memory[start:].view(dtype)


def marked(size: int, device: torch.device) -> Tensor:
    """Memory for bits that ``is_copy`` tells from a copy without a look at the device.

    Shape:
        - Output: ``(size,)``
    """
    return torch.empty(size + 1, dtype=torch.uint8, device=device)[:size]


def is_copy(bits: Tensor) -> bool:
    """Whether the bits, from ``marked`` or ``spill``, are a copy: their storage ends with them."""
    return bits.untyped_storage().nbytes() == bits.numel()


def refuse_copy() -> RuntimeError:
    """The error where the input was behind the bits, but these bits are a copy."""
    return RuntimeError(
        "expected the sign bits that a compiled forward saved, got a copy of them without the "
        "input that they were saved with (a γ is too small to recover it from the output): "
        "hand back the saved tensors themselves, or set the layers' backend to 'eager' before "
        "torch.compile"
    )


def _start(size: int) -> int:
    """Where the input begins, in bytes."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _at(memory: Tensor, size: int) -> Tensor:
    empty = torch.empty(0, dtype=torch.uint8, device=memory.device)
    return empty.set_(memory.untyped_storage(), 0, (size,), (1,))
