"""What the native kernels gain on this machine, against BatchNorm in the same process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from l1bn.nn import L1BatchNormAct2d
from l1bn.ops.native.library import FLOAT_NORM
from l1bn.ops.registry import registry

_SECONDS = 10.0
_FEWEST = 5
_SHAPES = ((64, 16, 32, 32), (32, 64, 56, 56), (32, 256, 14, 14))
_DTYPES = (torch.float32, torch.bfloat16)
_LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Gain:
    """One comparison.

    Attributes:
        shape: ``(N, C, H, W)``.
        layout: memory format.
        dtype: of the input.
        ratios: of each round, BatchNorm's time over L1BN's.
    """

    shape: tuple[int, ...]
    layout: str
    dtype: torch.dtype
    ratios: list[float]


def bench() -> None:
    """Print a table of norm + ReLU, forward and backward, BatchNorm's time over L1BN's."""
    console = Console(highlight=False)
    if "cpu" not in registry.available():
        console.print("\nno native kernels here: nothing to time")
        return
    threads = torch.get_num_threads()
    console.print(
        f"\nnorm + ReLU, forward and backward, kernels {FLOAT_NORM.isa()}, {threads} threads: "
        "how many times as fast as BatchNorm"
    )
    table = Table(box=None, pad_edge=False)
    for name in ("shape", "layout", "dtype"):
        table.add_column(name, no_wrap=True)
    for name in ("median", "middle half", "rounds"):
        table.add_column(name, justify="right", no_wrap=True)
    for gain in measure(_SECONDS):
        low, middle, high = statistics.quantiles(gain.ratios, n=4, method="inclusive")
        table.add_row(
            "×".join(map(str, gain.shape)), gain.layout, str(gain.dtype).removeprefix("torch."),
            f"{middle:.2f}×", f"{low:.2f} to {high:.2f}", str(len(gain.ratios)),
        )  # fmt: skip
    console.print(table)
    console.print(
        "Networks gain less, for most of a step is convolution: docs/results/speed.md", style="dim"
    )


def measure(seconds: float) -> Iterator[Gain]:
    """Time every shape, layout and dtype for its part of the time, in rounds of either norm."""
    cases = [(s, n, d) for d in _DTYPES for n in _LAYOUTS for s in _SHAPES]
    for shape, layout, dtype in cases:
        yield Gain(shape, layout, dtype, _ratios(shape, layout, dtype, seconds / len(cases)))


def _ratios(shape: tuple[int, ...], layout: str, dtype: torch.dtype, seconds: float) -> list[float]:
    made = (torch.randn(shape).to(dtype, memory_format=_LAYOUTS[layout]) for _ in range(2))
    x, grad = made
    norm, layer = nn.BatchNorm2d(shape[1]), L1BatchNormAct2d(shape[1])
    variants: dict[str, Callable[[Tensor], Tensor]] = {
        "BatchNorm": lambda x: F.relu(norm(x), inplace=True),
        "L1BN": layer,
    }
    ratios: list[float] = []
    start = time.perf_counter()
    while len(ratios) < _FEWEST + 1 or time.perf_counter() - start < seconds:
        names = sorted(variants, reverse=len(ratios) % 2 == 1)  # either is first as often
        times = {name: _step(variants[name], x, grad) for name in names}
        ratios.append(times["BatchNorm"] / times["L1BN"])
    return ratios[1:]  # the first warms up


def _step(call: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> float:
    x = x.detach().requires_grad_()
    start = time.perf_counter()
    call(x).backward(grad)
    return time.perf_counter() - start
