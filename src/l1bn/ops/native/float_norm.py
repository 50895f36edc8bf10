"""The compiled kernels of ``csrc/``, loaded with ctypes. Knows C, and nothing of autograd.

One library serves every Python and every torch. A call packs its arguments into one block of
8-byte fields (``csrc/norm/interface.h``), which costs a microsecond where twenty ctypes
arguments cost three.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ABI",
    "Native",
    "load",
    "pack_alive",
    "pack_backward",
    "pack_evaluate",
    "pack_forward",
]

#: Version of the argument blocks below; a library of another version is refused.
ABI = 6

# Problem: outer, channels, inner, dtype, parameter dtype, activation, threads, eps.
_PROBLEM = "7qd"
#: x, residual, weight, bias, y, mean, scale, bits, limit of recovery, running mean, running var,
#: their dtype, momentum.
pack_forward = struct.Struct(_PROBLEM + "8qd3qd").pack
#: grad, y, x, residual, bits, weight, bias, mean, scale, dx, dresidual, dweight, dbias, frozen.
pack_backward = struct.Struct(_PROBLEM + "14q").pack
#: x, residual, weight, bias, running mean, running var, their dtype, y, mean, scale, limit.
pack_evaluate = struct.Struct(_PROBLEM + "10qd").pack
#: elements, dtype, activation, threads, y, from, to.
pack_alive = struct.Struct("7q").pack

_CALLS = ("forward", "backward", "evaluate", "count_alive", "pack_alive", "unpack_alive")


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
    path: Path
    library: ctypes.CDLL

    def isas(self) -> list[str]:
        """Instruction sets that can run here, the best first."""
        return self.library.l1bn_isas().decode().split()

    def isa(self) -> str:
        """The instruction set in use."""
        return self.library.l1bn_isa().decode()

    def select(self, isa: str) -> None:
        """Use another instruction set, for tests and measurements.

        Raises:
            ValueError: it cannot run here.
        """
        if self.library.l1bn_select(isa.encode()) != 0:
            raise ValueError(f"expected one of {self.isas()}, got {isa!r}: this CPU has no other")

    def threaded(self) -> bool:
        """Whether the threads of the process's OpenMP runtime serve the kernels."""
        return bool(self.library.l1bn_threaded())


def load() -> Native | str:
    """Load the library that lies beside this file, or say why it cannot be loaded."""
    path = Path(__file__).with_name("libl1bn.so")
    if not path.is_file():
        return f"{path} does not exist: it was not built, reinstall where there is a C++ compiler"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"{path} cannot be loaded: {error}"
    library.l1bn_abi.restype = ctypes.c_int64
    found = library.l1bn_abi()
    if found != ABI:
        return f"{path} has interface {found}, expected {ABI}: reinstall the package"
    return _declare(library, path)


def _declare(library: ctypes.CDLL, path: Path) -> Native:
    calls = {}
    for name in _CALLS:
        call = getattr(library, f"l1bn_{name}")
        call.restype, call.argtypes = ctypes.c_int64, [ctypes.c_char_p]
        calls[name] = call
    library.l1bn_bits_bytes.restype = ctypes.c_int64
    library.l1bn_bits_bytes.argtypes = [ctypes.c_int64] * 3
    for name in ("isas", "isa"):
        getattr(library, f"l1bn_{name}").restype = ctypes.c_char_p
    library.l1bn_select.restype, library.l1bn_select.argtypes = ctypes.c_int64, [ctypes.c_char_p]
    library.l1bn_threaded.restype = ctypes.c_int64
    return Native(**calls, bits_bytes=library.l1bn_bits_bytes, path=path, library=library)
