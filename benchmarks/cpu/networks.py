"""Training steps of whole networks on the CPU, BatchNorm against L1BN, and bytes kept for backward.

    python -m benchmarks.cpu.networks
    python -m benchmarks.cpu.networks --network resnet20 --threads 1   # one piece, written nowhere

Writes ``results/cpu_networks.csv`` and its environment. A step is forward, loss, backward and SGD
with momentum, channels_last: ResNet-20 and ResNet-18 on CIFAR shapes, and the ResNet-50 of
transformers, converted with ``l1bn.convert_``, on 128 x 128 pixels. ``--busy``: other programs are
running, one thread is timed by its own processor time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import l1bn
from benchmarks.harness import clock_for, interleave, quartiles, refuse_on_red, seconds, write
from benchmarks.models.conversion import from_transformers, saved_bytes
from l1bn.recipes.models import ModelSpec, build_model
from l1bn.strided_conv import to_channels_last_

#: Batch and pixels.
NETWORKS = {"resnet20": (128, 32), "resnet18": (32, 32), "resnet50": (4, 128)}
NORMS = {"l2": "BatchNorm", "l1": "L1BN"}
SPEC = ModelSpec(in_channels=3, image_size=32, num_classes=10)
THREADS = [1, 2]
Clock = Callable[[], float]


class Logits(nn.Module):
    """A model of transformers that returns its logits only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return self.model(x).logits


def network(name: str, norm: str, x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    if name != "resnet50":
        model = build_model(name, norm, SPEC)
    else:
        model = Logits(from_transformers("ResNet-50"))
        if norm == "l1":
            l1bn.convert_(model, example=x)
    return to_channels_last_(model).train()


def stepper(model: nn.Module, x: Tensor, clock: Clock) -> Callable[[], tuple[float]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    target = torch.arange(len(x)) % 10

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), target).backward()
        optimizer.step()

    return lambda: (seconds(step, clock),)


def measure(name: str, threads: int, rounds: int, busy: bool) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    batch, pixels = NETWORKS[name]
    x = torch.randn(batch, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)
    models = {norm: network(name, norm, x) for norm in NORMS}
    clock = clock_for(threads, busy)
    steps = {norm: stepper(model, x, clock) for norm, model in models.items()}
    rows = []
    for norm, samples in interleave(steps, rounds).items():
        low, middle, high = quartiles([s[0] for s in samples])
        rows.append(
            {
                "network": name,
                "batch": batch,
                "pixels": pixels,
                "norm": NORMS[norm],
                "threads": threads,
                "clock": clock.__name__,
                "step_ms": round(middle * 1e3, 3),
                "step_q1": round(low * 1e3, 3),
                "step_q3": round(high * 1e3, 3),
                "kept_bytes": saved_bytes(models[norm], x),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="steps of each network, at least 20")
    parser.add_argument("--network", choices=NETWORKS, nargs="*", default=list(NETWORKS))
    parser.add_argument("--threads", type=int, nargs="*", default=THREADS)
    parser.add_argument("--busy", action="store_true", help="other programs are running")
    options = parser.parse_args()
    refuse_on_red(
        "tests/test_backends.py", "tests/ops/cpu/test_backend.py", "-k", "layouts or rows or pair"
    )
    pieces = [(name, threads) for name in options.network for threads in options.threads]
    rows = []
    for name, threads in pieces:
        new = measure(name, threads, max(20, options.rounds), options.busy)
        rows += new
        print(
            f"{name}, {threads} threads: bytes kept "
            f"{new[1]['kept_bytes'] / new[0]['kept_bytes']:.3f}, step "
            f"{new[0]['step_ms'] / new[1]['step_ms']:.2f}x as fast",
            flush=True,
        )
    if set(pieces) >= set(product(NETWORKS, THREADS)):
        print(write("cpu_networks", rows))


if __name__ == "__main__":
    main()
