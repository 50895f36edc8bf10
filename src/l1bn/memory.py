"""The memory that large outputs and gradients on CPUs come from.

The ``cpu`` backend takes tensors of 4 MiB and more from a pool of its own. The memory goes back
to the pool when PyTorch frees the tensor, and is taken again in the next step. A fresh page costs
more than the arithmetic on it, and malloc returns large blocks to the system at once.

What is kept is bounded (``set_limit``). Memory unused for ten seconds goes back to the system with
the next tensor that is freed, and the system may take back the pages of what is kept whenever it is
short of memory (``MADV_FREE``; until then they count as resident).

Tensors of the pool are ordinary ones, but that their storage cannot be resized: ``y.resize_()`` to
more elements raises.
"""

from __future__ import annotations

from dataclasses import dataclass

from l1bn.ops.native.pool import pool


@dataclass(frozen=True)
class MemoryStats:
    """State of the pool.

    Attributes:
        used: bytes in tensors that are alive.
        kept: bytes kept for the next ones.
        limit: most bytes that are kept.
        mapped: how often the system was asked for a block.
    """

    used: int
    kept: int
    limit: int
    mapped: int


def stats() -> MemoryStats:
    """What the pool holds now; all zero where there are no native kernels."""
    found = pool()
    return MemoryStats(0, 0, 0, 0) if found is None else MemoryStats(*found.state())


def set_limit(size: int) -> None:
    """Bound what is kept. The default is a quarter of the memory of the machine or container.

    Args:
        size: bytes. With 0 tensors come from PyTorch's own allocator again.

    Raises:
        ValueError: a negative size.
    """
    if size < 0:
        raise ValueError(f"set_limit: expected a size in bytes of at least 0, got {size}")
    found = pool()
    if found is not None:
        found.set_limit(size)


def release() -> None:
    """Give everything that is kept back to the system, and go on as before."""
    found = pool()
    if found is not None:
        limit = found.state().limit
        found.set_limit(0)
        found.set_limit(limit)
