"""``l1bn build``: compile the autograd node in C++ for the torch that is installed.

Layers then take as long as BatchNorm on small inputs; without it they take twice as long.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import tyro

from l1bn.errors import UserError
from l1bn.ops.cpu import build as compiler
from l1bn.ops.cpu import node
from l1bn.ops.native.library import load


@dataclass(frozen=True)
class _Options:
    """Compile the autograd node for this torch and Python: g++, half a minute."""


def build_command(arguments: list[str]) -> int:
    """Compile the node, say where it lies, and return 0.

    Raises:
        UserError: it cannot be compiled, or not be used.
    """
    tyro.cli(_Options, prog="l1bn build", args=arguments)
    missing = load()
    if isinstance(missing, str):
        raise UserError(f"expected the native kernels, which the node calls: {missing}")
    place = node.place()
    if place.is_file():
        print(f"compiled before: {place}")
        return 0
    print("compiling the autograd node, about half a minute", file=sys.stderr, flush=True)
    start = time.monotonic()
    try:
        place = compiler.build()
    except (OSError, RuntimeError) as error:
        raise UserError(str(error)) from error
    print(f"compiled in {time.monotonic() - start:.0f} s: {place}")
    return 0
