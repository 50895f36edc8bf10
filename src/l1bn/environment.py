"""What a result was measured on: versions, processor, threads, command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import sys
from pathlib import Path

import torch

from l1bn.ops.cpu.backend import BACKEND
from l1bn.ops.registry import registry

CPU_FEATURES = ("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_tile")
"""Instruction sets that decide which kernels can run, in the Linux kernel's names."""


def version_of(distribution: str) -> str | None:
    """Return the installed version of a distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpuinfo(field: str) -> str | None:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return None
    found = re.search(rf"^{field}\s*:\s*(.*)$", path.read_text(), re.MULTILINE)
    return found.group(1) if found else None


def cpu_name() -> str:
    """Return the processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...] | None:
    """Return which of ``CPU_FEATURES`` the processor has, None where the system does not tell."""
    flags = _cpuinfo("flags") or _cpuinfo("Features")
    return None if flags is None else tuple(f for f in CPU_FEATURES if f in flags.split())


def describe_environment() -> dict[str, object]:
    """Return what belongs beside any measured number, as plain values."""
    return {
        "l1bn": version_of("l1bn"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_features": cpu_features(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "backends": registry.available(),
        "autograd_node": BACKEND.missing_node() or "compiled",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": _command(),
    }


def _command() -> str:
    """What was typed: a program, or ``python -m`` and a module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return shlex.join(["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]])
