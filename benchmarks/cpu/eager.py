"""The ``eager`` backend against BatchNorm on the CPU: time of forward and backward, and bytes kept.

    python -m benchmarks.cpu.eager
    python -m benchmarks.cpu.eager --threads 1 --shapes 0 2   # a part, written over its rows

Writes ``results/eager.csv`` and its environment. Both are followed by a ReLU, BatchNorm by
``F.relu``; shapes are those of ResNet-50. ``ratio`` is the median over rounds of L1BN's time over
BatchNorm's. ``--busy``: other programs are running, one thread is timed by its own processor time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import (
    clock_for,
    interleave,
    quartiles,
    refuse_on_red,
    replace_rows,
    seconds,
)
from benchmarks.models.conversion import saved_bytes
from l1bn.functional import l1_batch_norm

SHAPES = [
    (16, 64, 112, 112),
    (16, 256, 56, 56),
    (32, 64, 56, 56),
    (32, 512, 28, 28),
    (32, 256, 14, 14),
    (32, 2048, 7, 7),
]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
THREADS = [1, 2]
KEYS = ("shape", "dtype", "layout", "threads")


class Norm(nn.Module):
    """A training call with ReLU."""

    def __init__(self, channels: int, l1: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)
        self.bias = nn.Parameter(torch.randn(channels) / 8)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.l1 = l1

    def forward(self, x: Tensor) -> Tensor:
        """The output after ReLU."""
        given = x, self.mean, self.var, self.weight, self.bias, True
        if self.l1:
            return l1_batch_norm(*given, activation="relu", backend="eager")
        return F.relu(F.batch_norm(*given))


def step(norm: Norm, x: Tensor, grad: Tensor, clock: Callable[[], float]) -> list[float]:
    out: list[Tensor] = []
    forward = seconds(lambda: out.append(norm(x)), clock)
    backward = seconds(lambda: torch.autograd.grad(out[0], [x, *norm.parameters()], grad), clock)
    return [forward, backward, forward + backward]


def measure(
    shape: tuple[int, ...], dtype: str, layout: str, threads: int, rounds: int, busy: bool
) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    clock = clock_for(threads, busy)
    made = (torch.randn(shape, dtype=DTYPES[dtype]) for _ in range(2))
    x, grad = (v.contiguous(memory_format=LAYOUTS[layout]) for v in made)
    x.requires_grad_()
    norms = {"batch_norm": Norm(shape[1], False), "l1bn eager": Norm(shape[1], True)}
    variants = {k: (lambda norm=norm: step(norm, x, grad, clock)) for k, norm in norms.items()}
    samples = interleave(variants, rounds)
    base = samples["batch_norm"]
    rows = []
    for name, found in samples.items():
        row: dict[str, Any] = {
            "shape": "x".join(map(str, shape)),
            "dtype": dtype,
            "layout": layout,
            "threads": threads,
            "clock": clock.__name__,
            "variant": name,
        }
        for i, part in enumerate(("forward", "backward", "both")):
            low, middle, high = quartiles([s[i] for s in found])
            row |= {f"{part}_ms": middle, f"{part}_q1": low, f"{part}_q3": high}
        row = {k: round(v * 1e3, 3) if isinstance(v, float) else v for k, v in row.items()}
        ratios = [ours[2] / theirs[2] for ours, theirs in zip(found, base, strict=True)]
        row["ratio"] = round(statistics.median(ratios), 3)
        row["kept_bytes"] = saved_bytes(norms[name], x)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each shape")
    parser.add_argument("--shapes", type=int, nargs="+", default=range(len(SHAPES)))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--busy", action="store_true", help="processor time where one thread runs")
    parser.add_argument("--tested", action="store_true", help="the tests have just passed")
    parser.add_argument("--name", default="eager", help="of the files")
    options = parser.parse_args()
    if not options.tested:
        refuse_on_red("tests/test_backends.py", "-k", "eager")
    shapes = [SHAPES[i] for i in options.shapes]
    for piece in product(shapes, options.dtypes, options.layouts, options.threads):
        rows = measure(*piece, options.rounds, options.busy)
        print(*piece, f"{rows[1]['ratio']:.2f}", flush=True)
        replace_rows(options.name, rows, KEYS)


if __name__ == "__main__":
    main()
