"""The integer kernels of ``csrc/int8_norm/interface.h``, loaded with ctypes; knows no tensor."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

__all__ = ["available", "call", "isa", "isas", "select"]

_PATH = Path(__file__).with_name("libl1bn.so")
_ABI = 1
_ERROR = -(1 << 40)
_MESSAGES = {
    _ERROR: "expected memory for the sums of the channels; there is none",
    _ERROR - 1: (
        "expected scalars that fit the 32-bit element path, got a wider one; "
        "take fewer coefficient_bits, or a floor_log2 nearer to 0"
    ),
}
_CALLS = ("rescale", "peak", "norm_forward", "norm_apply", "norm_backward", "add", "sgd")


@cache
def _load(path: Path) -> ctypes.CDLL | str:
    if not path.is_file():
        return f"{path} does not exist: it was not built, reinstall where there is a C++ compiler"
    try:
        library = ctypes.CDLL(str(path))
        found = library.l1bn_int8_norm_abi()
    except (OSError, AttributeError) as error:
        return f"{path} cannot be used: {error}; reinstall the package"
    if found != _ABI:
        return f"{path} has int8 interface {found}, expected {_ABI}: reinstall the package"
    for name in _CALLS:
        call = getattr(library, f"l1bn_int8_{name}")
        call.restype, call.argtypes = ctypes.c_int64, [ctypes.c_char_p]
    for name in ("isas", "isa"):
        getattr(library, f"l1bn_int8_norm_{name}").restype = ctypes.c_char_p
    library.l1bn_int8_norm_select.restype = ctypes.c_int64
    library.l1bn_int8_norm_select.argtypes = [ctypes.c_char_p]
    return library


def _library() -> ctypes.CDLL:
    library = _load(_PATH)
    if isinstance(library, str):
        raise RuntimeError(f"expected the native library of the integer kernels: {library}")
    return library


def available() -> str | None:
    """Why the kernels cannot be used, or None where they can."""
    library = _load(_PATH)
    return library if isinstance(library, str) else None


def isas() -> list[str]:
    """Instruction sets that can run here, the best first."""
    return _library().l1bn_int8_norm_isas().decode().split()


def isa() -> str:
    """The instruction set in use."""
    return _library().l1bn_int8_norm_isa().decode()


def select(name: str) -> None:
    """Use another instruction set, for tests and measurements.

    Raises:
        ValueError: If it cannot run here.
    """
    if _library().l1bn_int8_norm_select(name.encode()) != 0:
        raise ValueError(f"expected one of {isas()}, got {name!r}: this CPU has no other")


def _check(result: int) -> int:
    if result <= _ERROR:
        raise ValueError(_MESSAGES[result])
    return result


def call(name: str, block: bytes) -> int:
    """Call an entry point with its packed block of arguments.

    Raises:
        RuntimeError: If the library cannot be used.
        ValueError: If the kernel refuses.
    """
    result: int = getattr(_library(), name)(block)
    if result <= _ERROR:
        raise ValueError(_MESSAGES[result])
    return result
