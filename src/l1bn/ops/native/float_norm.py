"""The blocks of arguments of the float kernels (``csrc/norm/interface.h``), and their functions.

A call packs its arguments into one block of 8-byte fields, which costs a microsecond where twenty
ctypes arguments cost three. Knows C, and nothing of autograd.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from l1bn.ops.native.library import PATH, Stack, float_norm

# Problem: outer, channels, inner, dtype, parameter dtype, activation, threads, eps, parameter of
# the activation.
_PROBLEM = "7q2d"
#: x, residual, weight, bias, y, mean, scale, bits, limit of recovery, running mean, running var,
#: their dtype, momentum.
pack_forward = struct.Struct(_PROBLEM + "8qd3qd").pack
#: grad, y, x, residual, bits, weight, bias, mean, scale, dx, dresidual, dweight, dbias, frozen.
pack_backward = struct.Struct(_PROBLEM + "14q").pack
#: x, residual, weight, bias, running mean, running var, their dtype, y, mean, scale, limit.
pack_evaluate = struct.Struct(_PROBLEM + "10qd").pack
#: elements, dtype, activation, threads, y, from, to.
pack_alive = struct.Struct("7q").pack


@dataclass(frozen=True)
class Native:
    """Entry points of the library. Each takes a packed block and returns a count or an error."""

    forward: Callable[[bytes], int]
    backward: Callable[[bytes], int]
    evaluate: Callable[[bytes], int]
    count_alive: Callable[[bytes], int]
    pack_alive: Callable[[bytes], int]
    unpack_alive: Callable[[bytes], int]
    bits_bytes: Callable[[int, int, int], int]
    stack: Stack

    @property
    def path(self) -> Path:
        """The library's file."""
        return self.stack.path

    def isas(self) -> list[str]:
        """Instruction sets that can run here, the best first."""
        return self.stack.isas()

    def isa(self) -> str:
        """The instruction set in use."""
        return self.stack.isa()

    def select(self, isa: str) -> None:
        """Use another instruction set, for tests and measurements.

        Raises:
            ValueError: it cannot run here.
        """
        self.stack.select(isa)

    def threaded(self) -> bool:
        """Whether the threads of the process's OpenMP runtime serve the kernels."""
        return bool(self.stack.library().l1bn_threaded())


def load(path: Path = PATH) -> Native | str:
    """The float kernels of a library, or why there are none."""
    stack = float_norm(path)
    missing = stack.available()
    if missing is not None:
        return missing
    library = stack.library()
    library.l1bn_bits_bytes.restype = ctypes.c_int64
    library.l1bn_bits_bytes.argtypes = [ctypes.c_int64] * 3
    library.l1bn_threaded.restype = ctypes.c_int64
    return Native(**stack.functions(), bits_bytes=library.l1bn_bits_bytes, stack=stack)
