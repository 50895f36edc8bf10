"""What is installed, what can run here, and why something cannot."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re

import torch
from rich.console import Console
from rich.table import Table

from l1bn import memory
from l1bn.environment import cpu_features, cpu_name, version_of
from l1bn.ops.cpu.backend import BACKEND
from l1bn.ops.int8 import conv as int8_conv
from l1bn.ops.int8 import norm as int8_norm
from l1bn.ops.native.library import FLOAT_NORM
from l1bn.ops.registry import registry
from l1bn.strided_conv import trial

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_EXTRAS = {"recipes": "train, compare, gan", "rtl": "hardware generator"}


def diagnose() -> None:
    """Print what is here."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in [*_versions(), *_backends(), *_extras(), *_machine(), _convolution()]:
        table.add_row(key, value)
    Console(highlight=False).print(table)


def missing_requirements(extra: str) -> list[str]:
    """Return the distributions of an extra that are not installed."""
    names = []
    try:
        requirements = importlib.metadata.requires("l1bn") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return []
    for requirement in requirements:
        name, _, marker = requirement.partition(";")
        found = re.match(r"[\w.-]+", name)
        if found and re.search(rf"extra == ['\"]{extra}['\"]", marker):
            names.append(found.group())
    return [n for n in names if version_of(n) is None]


def _versions() -> list[tuple[str, str]]:
    return [
        ("l1bn", version_of("l1bn") or "not installed as a distribution"),
        ("torch", torch.__version__),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
    ]


def _backends() -> list[tuple[str, str]]:
    rows = []
    for name in registry.names():
        reason = registry.get(name).unavailable()
        kernels = f", kernels {FLOAT_NORM.isa()}" if name == "cpu" and reason is None else ""
        rows.append((f"backend {name}", _state(reason) + kernels))
    rows.append(("autograd node", BACKEND.missing_node() or "compiled"))
    return [*rows, ("int8 kernels", _state(int8_conv.available() or int8_norm.available()))]


def _state(reason: str | None) -> str:
    return "available" if reason is None else f"missing: {reason}"


def _convolution() -> tuple[str, str]:
    found = trial()
    if found is None:
        return "strided 1x1", "right in channels_last"
    return "strided 1x1", (
        f"torch fails here: {found}, in backward of nn.Conv2d(4, 8, 1, stride=2) in channels_last; "
        "l1bn train, compare and gan avoid it; in your own models use NCHW memory with fewer than "
        "16 input channels there (docs/use/faq.md)"
    )


def _extras() -> list[tuple[str, str]]:
    rows = []
    for extra, use in _EXTRAS.items():
        missing = missing_requirements(extra)
        text = f"installed ({use})"
        if missing:
            text = f'missing {", ".join(missing)} ({use}): pip install "l1bn[{extra}]"'
        rows.append((f"extra {extra}", text.replace("[", r"\[")))
    return rows


def _machine() -> list[tuple[str, str]]:
    features = cpu_features()
    told = "unknown on this system" if features is None else ", ".join(features) or "none of note"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    variables = [f"{v}={os.environ[v]}" for v in _THREAD_VARIABLES if v in os.environ]
    gpu = "none"
    if torch.cuda.is_available():
        gpu = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    kept = memory.stats().limit
    return [
        ("processor", cpu_name()),
        ("instructions", told),
        ("threads", "; ".join([threads, *variables])),
        ("memory", f"at most {kept / 2**30:.1f} GiB kept for large results" if kept else "torch's"),
        ("gpu", gpu),
    ]
