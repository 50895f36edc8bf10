"""The one loader of the library of ``csrc/``: its version, its errors, its instruction sets.

Loaded with ctypes, so that one library serves every Python and every torch. It holds three stacks
of kernels, each with a prefix of its own and its own choice among the instruction sets.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

PATH = Path(__file__).with_name("libl1bn.so")

#: Version of the argument blocks and of the errors below (``L1BN_ABI`` of csrc/norm/interface.h); a
#: library of another version is refused.
ABI = 10

#: A status at or below this is an error; any other is the number that the call documents.
ERROR = -(1 << 40)

#: The table of csrc/common/status.h.
_ERRORS: dict[int, tuple[type[Exception], str]] = {
    ERROR: (MemoryError, "expected memory for the sums of the channels; there is none"),
    ERROR - 1: (TypeError, "expected float32, bfloat16, float16 or float64 elements"),
    ERROR - 2: (
        ValueError,
        "expected sizes of at least 1 and a kernel within the padded image",
    ),
    ERROR - 3: (
        ValueError,
        "expected scalars that fit the 32-bit element path, got a wider one; "
        "take fewer coefficient_bits, or a floor_log2 nearer to 0",
    ),
    ERROR - 4: (ValueError, "expected an instruction set that this CPU has"),
}

Call = Callable[[bytes], int]


def check(status: int) -> int:
    """Hand on what a kernel returned, unless that is an error.

    Raises:
        MemoryError: If there is no memory for the kernel's own buffers.
        TypeError: If it does not know the elements' type.
        ValueError: If it refuses the sizes or the numbers.
        RuntimeError: If the error is none of the table.
    """
    if status > ERROR:
        return status
    kind, text = _ERRORS.get(status, (RuntimeError, f"the native kernels returned {status}"))
    raise kind(text)


@cache
def load(path: Path = PATH) -> ctypes.CDLL | str:
    """Load a library, or say why it cannot be loaded."""
    if not path.is_file():
        return f"{path} does not exist: it was not built, reinstall where there is a C++ compiler"
    try:
        library = ctypes.CDLL(str(path))
        library.l1bn_abi.restype = ctypes.c_int64
        found = library.l1bn_abi()
    except (OSError, AttributeError) as error:
        return f"{path} cannot be loaded: {error}; reinstall the package"
    if found != ABI:
        return f"{path} has interface {found}, expected {ABI}: reinstall the package"
    return library


class Stack:
    """One of the three stacks of kernels.

    Args:
        prefix: What the names of its functions begin with.
        calls: Its functions that take a block of arguments, without the prefix of all.
        selector: Prefix of the functions that list and choose its instruction sets.
        path: The library's file.
    """

    def __init__(
        self, prefix: str, calls: Sequence[str], selector: str | None = None, path: Path = PATH
    ) -> None:
        self.path = path
        self._prefix = prefix
        self._calls = tuple(calls)
        self._selector = selector or prefix
        self._functions: dict[str, Call] | None = None

    def available(self) -> str | None:
        """Why the kernels cannot be used, or None where they can."""
        library = load(self.path)
        return library if isinstance(library, str) else None

    def library(self) -> ctypes.CDLL:
        """The library.

        Raises:
            RuntimeError: If it cannot be loaded.
        """
        library = load(self.path)
        if isinstance(library, str):
            raise RuntimeError(f"expected the native library: {library}")
        return library

    def isas(self) -> list[str]:
        """Instruction sets that can run here, the best first."""
        return self._text("isas").split()

    def isa(self) -> str:
        """The instruction set in use."""
        return self._text("isa")

    def select(self, isa: str) -> None:
        """Use another instruction set, for tests and measurements.

        Raises:
            ValueError: If it cannot run here.
        """
        function = getattr(self.library(), f"{self._selector}_select")
        function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_char_p]
        if function(isa.encode()) != 0:
            raise ValueError(f"expected one of {self.isas()}, got {isa!r}: this CPU has no other")

    def functions(self) -> dict[str, Call]:
        """The functions that take a block of arguments, by name. They return a status."""
        if self._functions is None:
            library = self.library()
            self._functions = {name: self._function(library, name) for name in self._calls}
        return self._functions

    def call(self, name: str, block: bytes) -> int:
        """Call a function with its packed block of arguments.

        Raises:
            RuntimeError: If the library cannot be used.
            MemoryError, TypeError, ValueError: If the kernel refuses, see ``check``.
        """
        return check((self._functions or self.functions())[name](block))

    def _function(self, library: ctypes.CDLL, name: str) -> Call:
        function = getattr(library, f"{self._prefix}_{name}")
        function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_char_p]
        return function

    def _text(self, name: str) -> str:
        function = getattr(self.library(), f"{self._selector}_{name}")
        function.restype = ctypes.c_char_p
        text: bytes = function()
        return text.decode()


def float_norm(path: Path = PATH) -> Stack:
    """The float kernels, ``csrc/norm``."""
    calls = ("forward", "backward", "evaluate", "count_alive", "pack_alive", "unpack_alive")
    return Stack("l1bn", calls, path=path)


def int8_conv(path: Path = PATH) -> Stack:
    """The 8-bit convolutions, ``csrc/int8_conv``."""
    calls = ("forward", "input_gradient", "weight_gradient")
    return Stack("l1bn_int8_conv", calls, path=path)


def int8_norm(path: Path = PATH) -> Stack:
    """The other kernels of integer training, ``csrc/int8_norm``."""
    norm = ("norm_forward", "norm_apply", "norm_sides", "norm_backward")
    calls = ("rescale", "peak", *norm, "add", "sgd")
    return Stack("l1bn_int8", calls, selector="l1bn_int8_norm", path=path)


FLOAT_NORM = float_norm()
INT8_CONV = int8_conv()
INT8_NORM = int8_norm()
