"""The node of autograd in C++ (``csrc/torch``), where it was compiled: ``l1bn build``.

An autograd function in Python costs more than a kernel on a small input. The node does the common
call in C++, with the same kernels: layers and tensors of PyTorch's own, dense, nobody looking on.
Anything else it hands back, before it has changed anything, and Python serves. It is compiled for
one torch, so it lies in a cache and not in the wheel.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from l1bn.activation import Activation, output_of
from l1bn.ops.cpu import kernels
from l1bn.ops.cpu.memory import POOLED
from l1bn.ops.native.library import PATH, load
from l1bn.ops.native.pool import pool
from l1bn.ops.records import Branch

_INSTALLED = Path(__file__).with_name("csrc")
_CHECKOUT = Path(__file__).parents[4] / "csrc"
#: Interfaces of the native library, which the node includes.
INTERFACES = ("common/status.h", "memory/interface.h", "norm/interface.h")

_MISSING = "not compiled for this torch and Python: run `l1bn build`"

#: Code, parameter, and the fewest bytes of an element of which the output is kept; 0 for none.
Coded = tuple[int, float, int]


class Module(Protocol):
    """The compiled module."""

    def connect(
        self,
        library: str,
        differentiate: Callable[..., object],
        limits: tuple[int, tuple[float, ...]],
    ) -> None:
        """Give it the native library, what it asks where kernels are not enough, and limits."""

    def train(
        self, tensors: tuple[Tensor | None, ...], momentum: object, eps: object, activation: Coded
    ) -> Tensor | None:
        """Input, running mean and variance, γ, β, residual: the output, or None."""


def sources() -> Path:
    """The folder that holds ``torch/*.cpp`` and the interfaces.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    for folder in (_INSTALLED, _CHECKOUT):
        if (folder / "torch" / "node.cpp").is_file():
            return folder
    raise FileNotFoundError(f"{_INSTALLED}: expected the node's sources; install l1bn anew")


def place() -> Path:
    """Where the node lies that fits these sources, this torch and this Python."""
    folder = sources()
    files = sorted((folder / "torch").iterdir()) + [folder / name for name in INTERFACES]
    found = hashlib.sha256(f"{torch.__version__} {sys.implementation.cache_tag}".encode())
    for file in files:
        found.update(file.read_bytes())
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions"
    return Path(root) / "l1bn" / f"l1bn_node-{found.hexdigest()[:16]}.so"


def load_module(path: Path, differentiate: Callable[..., object]) -> Module:
    """Load a compiled module and connect it.

    Raises:
        ImportError: it does not fit.
    """
    loader = importlib.machinery.ExtensionFileLoader("l1bn_node", str(path))
    spec = importlib.util.spec_from_loader("l1bn_node", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    pool()  # sets how much it may keep
    found = cast(Module, module)
    found.connect(str(PATH), differentiate, (POOLED, kernels.RECOVERY_LIMIT))
    return found


@cache
def find(differentiate: Callable[..., object]) -> Module | str:
    """The compiled module, or why there is none.

    Args:
        differentiate: what it asks for gradients that the kernels alone cannot tell.
    """
    library = load()
    if isinstance(library, str):
        return library
    try:
        path = place()
        return load_module(path, differentiate) if path.is_file() else _MISSING
    except (OSError, ImportError, RuntimeError) as error:
        return f"cannot be loaded: {error}; run `l1bn build`"


@lru_cache(maxsize=64)
def _coded(activation: Activation | None) -> Coded:
    output = None if activation is None else output_of(activation)
    fewest = 0 if output is None else 1 if output.narrow else 4
    return *kernels.coded(activation), fewest


def train(
    module: Module, call: Branch, residual: Tensor | None, activation: Activation | None
) -> Tensor | None:
    """Do a whole call in training, or nothing of it where it is not of the common kind.

    Shape:
        - residual, Output: ``(N, C, *)``
    """
    x, mean, var, weight, bias, _, momentum, eps = call
    try:
        coded = _coded(activation)
    except (AssertionError, KeyError, TypeError, ValueError):  # Python says what is wrong with it
        return None
    return module.train((x, mean, var, weight, bias, residual), momentum, eps, coded)
