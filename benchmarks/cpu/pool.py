"""Large tensors from the library's pool of memory against PyTorch's allocator.

    python -m benchmarks.cpu.pool

Forward and backward of norm + ReLU, float32: BatchNorm, L1BN with ``l1bn.memory.set_limit(0)`` ("no
pool") and L1BN as it comes ("pool"). ``ratio`` is the median over rounds of BatchNorm's time over
this row's. Then 2,000 training steps of a small network whose tensors come from the pool, with the
resident memory after each 200. Writes ``results/cpu_pool.csv``, ``results/cpu_pool_steps.csv`` and
their environments.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import l1bn
from benchmarks.harness import interleave, median_ratio, milliseconds, refuse_on_red, seconds, write

SHAPES = [(32, 64, 56, 56), (32, 256, 56, 56), (128, 64, 32, 32), (32, 512, 28, 28)]
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
THREADS = [1, 2]


def variant(
    norm: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, limit: int
) -> Callable[[], tuple[float]]:
    def step() -> None:
        x.grad = None
        norm(x).backward(grad)

    def timed() -> tuple[float]:
        l1bn.memory.set_limit(limit)
        step()  # the variant before may have emptied the pool
        return (seconds(step),)

    return timed


def measure(
    shape: tuple[int, ...], layout: str, threads: int, rounds: int, limit: int
) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    made = (torch.randn(shape).contiguous(memory_format=LAYOUTS[layout]) for _ in range(2))
    x, grad = made
    x.requires_grad_()
    batch_norm = nn.BatchNorm2d(shape[1])
    layer = l1bn.L1BatchNormAct2d(shape[1])
    l1bn.memory.set_limit(limit)
    samples = interleave(
        {
            "batch_norm": variant(lambda x: F.relu(batch_norm(x)), x, grad, limit),
            "l1bn, no pool": variant(layer, x, grad, 0),
            "l1bn, pool": variant(layer, x, grad, limit),
        },
        rounds,
    )
    rows = []
    base = [s[0] for s in samples["batch_norm"]]
    for name, found in samples.items():
        times = [s[0] for s in found]
        low, middle, high = milliseconds(times)
        rows.append(
            {
                "shape": "x".join(map(str, shape)),
                "layout": layout,
                "threads": threads,
                "variant": name,
                "both_ms": middle,
                "both_q1": low,
                "both_q3": high,
                "ratio": median_ratio(base, times),
            }
        )
    return rows


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def steps(count: int, every: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (3, 32, 32):
        layers += [nn.Conv2d(channels, 32, 3, padding=1, bias=False), l1bn.L1BatchNormAct2d(32)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    rows = []
    for step in range(1, count + 1):
        # Batches of other sizes, so that blocks of many sizes are asked for.
        size = 16 + 4 * (step % 5)
        loss = F.cross_entropy(model(torch.randn(size, 3, 48, 48)), torch.arange(size) % 10)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % every == 0:
            state = l1bn.memory.stats()
            rows.append(
                {
                    "step": step,
                    "resident_bytes": resident(),
                    "kept_bytes": state.kept,
                    "mapped": state.mapped,
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each shape, at least 20")
    options = parser.parse_args()
    refuse_on_red("tests/ops/cpu/test_pool.py")
    limit = l1bn.memory.stats().limit
    rows = []
    for shape, layout, threads in product(SHAPES, LAYOUTS, THREADS):
        new = measure(shape, layout, threads, max(20, options.rounds), limit)
        rows += new
        found = ", ".join(f"{r['variant']} {r['both_ms']} ms {r['ratio']}x" for r in new)
        print(*shape, layout, threads, found, flush=True)
    print(write("cpu_pool", rows))
    l1bn.memory.set_limit(limit)
    print(write("cpu_pool_steps", steps(2000, 200)))


if __name__ == "__main__":
    main()
