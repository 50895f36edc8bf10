"""Parts of the package without its ``__init__``, which would load torch; for the drivers."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

SOURCES = Path(__file__).parents[2] / "src" / "l1bn"

for name, folder in (("l1bn", SOURCES), ("l1bn.ops", SOURCES / "ops")):
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package

from l1bn.ops.native import float_norm as float_norm  # noqa: E402
from l1bn.ops.native import library as library  # noqa: E402
from l1bn.ops.native import pool as pool  # noqa: E402


def load_openmp() -> None:
    """Load an OpenMP runtime, as torch would have."""
    for runtime in ("libgomp.so.1", "libomp.so.5"):
        with suppress(OSError):
            ctypes.CDLL(runtime, ctypes.RTLD_GLOBAL)
            return


def selected(stack: library.Stack) -> Iterator[str]:
    """The instruction sets of a stack, each selected while it is the current one."""
    for isa in stack.isas():
        stack.select(isa)
        assert stack.isa() == isa
        yield isa
