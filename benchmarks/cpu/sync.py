"""The synchronised layer in two processes on gloo, against the layer without synchronisation.

    python -m benchmarks.cpu.sync

Writes ``results/sync.csv`` and its environment. Each process has one thread and a batch of its own;
forward and backward of norm and ReLU, in turns within a process. Times are those of the first
process. ``nn.SyncBatchNorm`` does not run on CPUs. ``ratio`` is the median over rounds of the
synchronised layer's time over the other's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import l1bn
from benchmarks.harness import interleave, median_ratio, milliseconds, refuse_on_red, seconds, write

PROCESSES = 2
SHAPES = [(32, 64, 56, 56), (32, 256, 14, 14), (64, 16, 32, 32), (32, 512, 7, 7)]
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def step(layer: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], tuple[float]]:
    def run() -> None:
        x.grad = None
        layer(x).backward(grad)

    def timed() -> tuple[float]:
        dist.barrier()  # neither waits for what the other does beside
        return (seconds(run),)

    return timed


def work(rank: int, meeting: str, rounds: int, found: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=PROCESSES
    )
    torch.manual_seed(rank)
    for shape, layout in product(SHAPES, LAYOUTS):
        x, grad = (torch.randn(shape).contiguous(memory_format=LAYOUTS[layout]) for _ in range(2))
        x.requires_grad_()
        layers = {
            "alone": l1bn.L1BatchNormAct2d(shape[1]),
            "synchronised": l1bn.L1SyncBatchNormAct2d(shape[1]),
        }
        samples = interleave({k: step(layer, x, grad) for k, layer in layers.items()}, rounds)
        if rank == 0:
            found.put((shape, layout, samples))
    dist.destroy_process_group()


def rows(shape: tuple[int, ...], layout: str, samples: dict[str, Any]) -> list[dict[str, Any]]:
    made = []
    alone = [t[0] for t in samples["alone"]]
    for name, found in samples.items():
        times = [t[0] for t in found]
        low, middle, high = milliseconds(times)
        row = {"shape": "x".join(map(str, shape)), "layout": layout, "variant": name}
        row |= {"both_ms": middle, "both_q1": low, "both_q3": high}
        row["ratio"] = median_ratio(times, alone)
        made.append(row)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each shape, at least 20")
    options = parser.parse_args()
    refuse_on_red("tests/nn/test_distributed.py")
    with tempfile.TemporaryDirectory() as folder:
        found = mp.get_context("spawn").SimpleQueue()
        arguments = (str(Path(folder) / "meeting"), max(20, options.rounds), found)
        context = mp.spawn(work, arguments, nprocs=PROCESSES, join=False)
        table = []
        for _ in product(SHAPES, LAYOUTS):
            table += rows(*found.get())
            print(*(f"{k} {v}" for k, v in table[-1].items()), flush=True)
        context.join()
    print(write("sync", table))


if __name__ == "__main__":
    main()
