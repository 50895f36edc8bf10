"""Integer L1BN + ReLU against float32 nn.BatchNorm + ReLU, on the layers of ResNet-20.

    python -m benchmarks.integers.norm [--threads 1] [--busy]

Forward and backward of one layer at batch 128, channels last. The integer layer begins with the
int32 sums of the convolution before it and scales them to 8 bits itself; its backward rounds
stochastically and returns 8-bit errors. Writes ``results/int8_norm.csv`` and its environment. On a
machine that does other work, --busy takes the processor time of single-threaded runs instead of
wall time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import clock_for, interleave, quartiles, refuse_on_red, seconds, write
from l1bn.fixed_point import NormSpec
from l1bn.fixed_point.formats import Noise
from l1bn.nn import L1BatchNormAct2d
from l1bn.ops.int8 import norm as int8_norm

#: Shape, layers of it in ResNet-20, and how many of these add a residual.
LAYERS = [
    ((128, 16, 32, 32), 7, 3),
    ((128, 32, 16, 16), 6, 3),
    ((128, 64, 8, 8), 6, 3),
]
SPEC = NormSpec(width=8)
Run = Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]


def last(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last)


def integer(shape: tuple[int, ...], residual: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Forward and backward of the integer layer."""
    channels = shape[1]
    value = last((torch.randn(shape) * 2**14).int())
    g, skip = (last((torch.randn(shape) * 30).char()) for _ in range(2))
    gamma = torch.full((channels,), 64, dtype=torch.int8)
    beta = torch.zeros(channels, dtype=torch.int8)
    shift = torch.full((channels,), 9, dtype=torch.int32)
    exponent = torch.full((channels,), -5, dtype=torch.int32)
    noise = Noise(seed=1, stream=2)
    kept: list[Any] = []

    def forward() -> None:
        added = skip if residual else None
        kept[:] = int8_norm.norm_forward_fused(value, shift, gamma, beta, SPEC, residual=added)

    def backward() -> None:
        x, y, state = kept
        int8_norm.norm_backward(
            g, x, y, state,
            spec=SPEC, g_exponent=-9, x_exponent=exponent, noise=noise, residual=residual,
        )  # fmt: skip

    return forward, backward


def floating(
    norm: nn.Module, shape: tuple[int, ...], residual: bool, own_relu: bool
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Forward and backward of a float32 layer."""
    x, g = last(torch.randn(shape)).requires_grad_(), last(torch.randn(shape))
    skip = last(torch.randn(shape)).requires_grad_()
    kept: list[Tensor] = []

    def forward() -> None:
        if own_relu:
            kept[:] = [norm(x, residual=skip) if residual else norm(x)]
        else:
            y = norm(x)
            kept[:] = [F.relu(y + skip if residual else y, inplace=True)]

    def backward() -> None:
        wanted = [x, *norm.parameters(), *([skip] if residual else [])]
        torch.autograd.grad(kept[0], wanted, g)

    return forward, backward


def variants(shape: tuple[int, ...], residual: bool) -> dict[str, Any]:
    channels = shape[1]
    return {
        "int8": integer(shape, residual),
        "l1bn_float32": floating(L1BatchNormAct2d(channels), shape, residual, True),
        "batch_norm_float32": floating(nn.BatchNorm2d(channels), shape, residual, False),
    }


def measure(threads: int, rounds: int, busy: bool) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    clock = clock_for(threads, busy)
    rows = []
    for shape, layers, residuals in LAYERS:
        for residual, count in ((False, layers - residuals), (True, residuals)):
            calls = variants(shape, residual)
            timed = {
                name: lambda pair=pair: [seconds(call, clock) for call in pair]
                for name, pair in calls.items()
            }
            for name, samples in interleave(timed, rounds).items():
                row: dict[str, Any] = {
                    "shape": "x".join(map(str, shape)),
                    "residual": residual,
                    "layers": count,
                    "threads": threads,
                    "variant": name,
                }
                for part, values in (
                    ("forward", [s[0] for s in samples]),
                    ("backward", [s[1] for s in samples]),
                    ("both", [sum(s) for s in samples]),
                ):
                    low, middle, high = quartiles(values)
                    row |= {f"{part}_ms": middle * 1e3}
                    row |= {f"{part}_q1": low * 1e3, f"{part}_q3": high * 1e3}
                rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    lines = ["| threads | layer | forward [ms] | backward [ms] | all layers of ResNet-20 [ms] |"]
    lines.append("|---|---|---|---|---|")
    for threads, name in dict.fromkeys((r["threads"], r["variant"]) for r in rows):
        chosen = [r for r in rows if (r["threads"], r["variant"]) == (threads, name)]
        parts = [
            sum(r["layers"] * r[f"{part}_ms"] for r in chosen)
            for part in ("forward", "backward", "both")
        ]
        lines.append(f"| {threads} | {name} | " + " | ".join(f"{p:.1f}" for p in parts) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--busy", action="store_true", help="processor time where one thread runs")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each shape, at least 20")
    options = parser.parse_args()
    refuse_on_red("tests/ops/int8/test_norm.py", "-k", "forward_and_backward or fused")
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        rows += measure(threads, max(20, options.rounds), options.busy)
    print(write("int8_norm", rows))
    print(summary(rows))


if __name__ == "__main__":
    main()
