"""L1BN + ReLU against nn.BatchNorm + ReLU on the CPU, forward and backward, shape by shape.

BN adds the residual and applies ReLU in place, as most networks have it ("batch_norm"), or into new
tensors ("batch_norm new").

    python -m benchmarks.cpu.ops [--threads 1 2] [--variants batch_norm l1bn] [--isas avx2] [--busy]
        [--name cpu_ops_xeon]

The native kernels are timed with every instruction set that the machine has, or those of --isas: a
row each, with its name and the processor's.

Writes ``results/NAME.csv``, its environment and ``results/NAME.png``, and prints a summary.
The floor is the time that the fewest bytes need at the speed of a copy into existing memory of the
same size: forward reads x and writes y, backward reads y and the gradient and writes dx. Outputs
are fresh memory, which the system has to clear first: `fresh_ms` is a copy into such memory. On a
machine that does other work, --busy takes the processor time of single-threaded runs instead of
wall time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cpu.ops_plot import draw
from benchmarks.harness import (
    clock_for,
    geometric_mean,
    interleave,
    quartiles,
    refuse_on_red,
    seconds,
    write,
)
from l1bn.environment import cpu_name
from l1bn.functional import l1_batch_norm
from l1bn.ops.native.library import FLOAT_NORM

SHAPES = [
    (32, 64, 56, 56),
    (32, 256, 56, 56),
    (32, 128, 28, 28),
    (32, 512, 28, 28),
    (32, 1024, 14, 14),
    (128, 16, 32, 32),
    (128, 64, 32, 32),
    (128, 128, 16, 16),
    (128, 256, 8, 8),
    (256, 1024),
    (4, 32, 16, 56, 56),
]
VARIANTS = ("batch_norm", "l1bn", "batch_norm new", "l1bn eager", "batch_norm compiled")
EAGER = {(32, 128, 28, 28), (128, 16, 32, 32), (256, 1024)}
COMPILED = {(32, 128, 28, 28), (128, 64, 32, 32), (32, 64, 56, 56)}
WITH_RESIDUAL = {(32, 256, 56, 56), (32, 512, 28, 28), (128, 64, 32, 32)}
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
NORMS = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@dataclass(frozen=True)
class Config:
    """One thing to time."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    residual: bool
    threads: int

    def tensor(self) -> Tensor:
        """Draw values in the shape, dtype and layout."""
        x = torch.randn(self.shape).to(self.dtype)
        return x.contiguous(memory_format=LAST[x.dim()]) if self.layout == "channels_last" else x


def configs(counts: list[int]) -> Iterator[Config]:
    for threads, dtype, layout in product(
        counts, [torch.float32, torch.bfloat16], ["contiguous", "channels_last"]
    ):
        for shape in SHAPES:
            if layout == "channels_last" and len(shape) == 2:
                continue
            yield Config(shape, dtype, layout, False, threads)
            if shape in WITH_RESIDUAL:
                yield Config(shape, dtype, layout, True, threads)


def isas_for(dtype: torch.dtype, wanted: Collection[str]) -> list[str]:
    """Those instruction sets that have code of their own for a dtype."""
    return [i for i in wanted if i != "avx512bf16" or dtype == torch.bfloat16]


def forced(isas: Collection[str], call: Callable[[], Tensor]) -> dict[str, Callable[[], Tensor]]:
    """The call with each instruction set, by the variant's name."""

    def on(isa: str) -> Tensor:
        FLOAT_NORM.select(isa)
        return call()

    return {f"l1bn {isa}": partial(on, isa) for isa in isas}


def variants(
    config: Config, clock: Callable[[], float], wanted: Collection[str], isas: Collection[str]
) -> dict[str, Callable[[], tuple[float, float]]]:
    channels = config.shape[1]
    norm = NORMS[len(config.shape)](channels)
    x = config.tensor().requires_grad_()
    residual = config.tensor().requires_grad_() if config.residual else None
    grad = config.tensor()

    def batch_norm() -> Tensor:
        y = norm(x)
        return F.relu_(y if residual is None else y.add_(residual))

    def batch_norm_new() -> Tensor:
        y = norm(x)
        return F.relu(y if residual is None else y + residual)

    def ours(backend: str) -> Tensor:
        return l1_batch_norm(
            x,
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            True,
            activation="relu",
            residual=residual,
            backend=backend,
        )

    def step(forward: Callable[[], Tensor]) -> tuple[float, float]:
        out: list[Tensor] = []
        ahead = seconds(lambda: out.append(forward()), clock)
        back = seconds(lambda: out.pop().backward(grad), clock)
        for leaf in (x, residual, norm.weight, norm.bias):
            if leaf is not None:
                leaf.grad = None
        return ahead, back

    chosen: dict[str, Callable[[], Any]] = {
        "batch_norm": batch_norm,
        **forced(isas_for(config.dtype, isas), lambda: ours("cpu")),
    }
    if "batch_norm new" in wanted:
        chosen["batch_norm new"] = batch_norm_new
    if config.shape in EAGER and "l1bn eager" in wanted:
        chosen["l1bn eager"] = lambda: ours("eager")
    traced = config.shape in COMPILED and config.dtype == torch.float32 and not config.residual
    if traced and "batch_norm compiled" in wanted:
        torch._dynamo.reset()
        chosen["batch_norm compiled"] = torch.compile(batch_norm)
    return {name: lambda f=f: step(f) for name, f in chosen.items()}


def floor(config: Config, rounds: int, clock: Callable[[], float]) -> tuple[float, float, float]:
    """Least seconds of a forward and of a backward pass, and those of a copy into fresh memory."""
    x = config.tensor()
    target = torch.empty_like(x)
    copy = median(seconds(lambda: target.copy_(x), clock) for _ in range(rounds))
    fresh = median(seconds(x.clone, clock) for _ in range(rounds))
    per_byte = copy / (2 * x.nbytes)
    extra = x.nbytes if config.residual else 0
    return per_byte * (2 * x.nbytes + extra), per_byte * (3 * x.nbytes + 2 * extra), fresh


def measure(
    config: Config, rounds: int, busy: bool, wanted: Collection[str], isas: Collection[str]
) -> list[dict[str, Any]]:
    torch.set_num_threads(config.threads)
    clock = clock_for(config.threads, busy)
    floors = floor(config, rounds, clock)
    times = interleave(variants(config, clock, wanted, isas), rounds)
    rows = []
    for name, samples in times.items():
        row: dict[str, Any] = {
            "shape": "x".join(map(str, config.shape)),
            "dtype": str(config.dtype).removeprefix("torch."),
            "layout": config.layout,
            "residual": config.residual,
            "threads": config.threads,
            "clock": clock.__name__,
            "variant": "l1bn" if name.removeprefix("l1bn ") in isas else name,
            "isa": name.removeprefix("l1bn ") if name.removeprefix("l1bn ") in isas else "",
            "processor": cpu_name(),
        }
        parts = [[s[0] for s in samples], [s[1] for s in samples], [sum(s) for s in samples]]
        for part, values in zip(("forward", "backward", "both"), parts, strict=True):
            low, middle, high = quartiles(values)
            row |= {f"{part}_ms": middle * 1e3, f"{part}_q1": low * 1e3, f"{part}_q3": high * 1e3}
        names = "floor_forward_ms", "floor_backward_ms", "fresh_ms"
        row |= {name: least * 1e3 for name, least in zip(names, floors, strict=True)}
        rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    return rows


def ratios(rows: list[dict[str, Any]], against: str, isa: str, **where: Any) -> dict[str, float]:
    """Times of ``against`` over those of the native kernels, by shape."""
    chosen = [r for r in rows if all(r[k] == v for k, v in where.items())]
    ours = {r["shape"]: r["both_ms"] for r in chosen if r["isa"] == isa}
    theirs = {r["shape"]: r["both_ms"] for r in chosen if r["variant"] == against}
    return {s: theirs[s] / ours[s] for s in theirs}


def isas_in(rows: list[dict[str, Any]], dtype: str) -> list[str]:
    """Instruction sets that were timed with a dtype, the best first."""
    return list(dict.fromkeys(r["isa"] for r in rows if r["dtype"] == dtype and r["isa"]))


def summary(rows: list[dict[str, Any]]) -> str:
    everyone = max(r["threads"] for r in rows)
    lines = [
        "| dtype | layout | kernels | geometric mean | worst | best |",
        "|---|---|---|---|---|---|",
    ]
    for dtype, layout in product(("float32", "bfloat16"), ("contiguous", "channels_last")):
        where = {"dtype": dtype, "layout": layout, "threads": everyone, "residual": False}
        for isa in isas_in(rows, dtype):
            found = ratios(rows, "batch_norm", isa, **where)
            if not found:
                continue
            worst, best = min(found, key=lambda s: found[s]), max(found, key=lambda s: found[s])
            lines.append(
                f"| {dtype} | {layout} | {isa} | {geometric_mean(list(found.values())):.2f}x "
                f"| {found[worst]:.2f}x ({worst}) | {found[best]:.2f}x ({best}) |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1, 2 and all")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--isas", nargs="+", default=FLOAT_NORM.isas(), choices=FLOAT_NORM.isas())
    parser.add_argument("--shapes", type=int, nargs="+", help="places in the list, default: all")
    parser.add_argument("--busy", action="store_true", help="processor time where one thread runs")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each shape, at least 20")
    parser.add_argument("--name", default="cpu_ops", help="of the files: one per processor")
    options = parser.parse_args()
    refuse_on_red(
        "tests/test_backends.py", "tests/ops/cpu/test_backend.py", "-k", "cpu and not ten_million"
    )
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    counts = options.threads or sorted({1, 2, torch.get_num_threads()}, reverse=True)
    wanted = [SHAPES[i] for i in options.shapes or range(len(SHAPES))]
    for config in configs(counts):
        if config.shape not in wanted:
            continue
        rounds = max(20, options.rounds)
        found = measure(config, rounds, options.busy, options.variants, options.isas)
        by = {r["isa"] or r["variant"]: r["both_ms"] for r in found}
        print(
            config.shape, config.dtype, config.layout, f"{config.threads} threads", by, flush=True
        )
        rows += found
    if not options.shapes:
        print(write(options.name, rows))
        print(draw(options.name))
    print(summary(rows))


if __name__ == "__main__":
    main()
