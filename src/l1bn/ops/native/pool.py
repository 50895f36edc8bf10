"""The pool of ``csrc/memory``: memory as DLPack capsules. Knows C, and nothing of torch."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from l1bn.ops.native.library import load

#: Most dimensions of a tensor (``L1BN_MOST_DIMENSIONS`` of csrc/memory/interface.h).
DIMENSIONS = 8
#: Bytes, type's code, its bits, dimensions, shape, strides.
_pack = struct.Struct(f"{4 + 2 * DIMENSIONS}q").pack
_PADDING = [(0,) * (DIMENSIONS - n) for n in range(DIMENSIONS + 1)]
# Of a capsule that no tensor was made of yet. It must outlive every capsule.
_NAME = b"dltensor"
_CGROUP = Path("/sys/fs/cgroup/memory.max")


class State(NamedTuple):
    """What the pool holds, in bytes, and how often it asked the system for a block."""

    used: int
    kept: int
    limit: int
    mapped: int


class Pool:
    """Blocks of memory that are kept when they are free.

    Args:
        library: the native library.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._take, self._drop = library.l1bn_memory_take, library.l1bn_memory_drop
        self._look, self._limit = library.l1bn_memory_look, library.l1bn_memory_limit
        self._take.restype, self._take.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        self._drop.restype, self._drop.argtypes = None, [ctypes.c_void_p]
        self._look.restype, self._look.argtypes = None, [ctypes.POINTER(ctypes.c_int64)]
        self._limit.restype, self._limit.argtypes = None, [ctypes.c_int64]
        self._capsule = ctypes.pythonapi.PyCapsule_New
        self._capsule.restype = ctypes.py_object
        self._capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        #: Whether anything is taken from the pool.
        self.enabled = True
        self.set_limit(_quarter_of_memory())

    def take(
        self, size: int, kind: tuple[int, int], shape: Sequence[int], strides: Sequence[int]
    ) -> object | None:
        """A capsule that a tensor is made of, or None where the system has no memory.

        Args:
            size: bytes of the elements.
            kind: code and bits of their type, as DLPack has it.
            shape: sizes, at most ``DIMENSIONS``.
            strides: in elements.
        """
        padding = _PADDING[len(shape)]
        tensor = self._take(_pack(size, *kind, len(shape), *shape, *padding, *strides, *padding))
        if tensor is None:
            return None
        try:
            capsule: object = self._capsule(tensor, _NAME, None)
        except MemoryError:
            self._drop(tensor)
            return None
        return capsule

    def state(self) -> State:
        """What it holds now."""
        found = (ctypes.c_int64 * len(State._fields))()
        self._look(found)
        return State(*found)

    def set_limit(self, size: int) -> None:
        """Keep at most so many bytes; with 0 nothing is taken from the pool."""
        self._limit(size)
        self.enabled = size > 0


@cache
def pool() -> Pool | None:
    """The pool of this process, or None without the native library."""
    library = load()
    return None if isinstance(library, str) else Pool(library)


def _quarter_of_memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no such file, or "max"
        total = min(total, int(_CGROUP.read_text()))
    return total // 4
