"""Where a training step in integers spends its time, operation by operation.

    python -m benchmarks.integers.profile

Writes ``results/integer_profile.csv`` and its environment. Products are set against the peak of the
CPU's 8-bit dot products (``peak.c``, compiled here), element-wise operations against the time in
which a copy moves the bytes that they read and write. What is no kernel call is "the rest":
activations, pooling, the loss, the numbers of the channels, and Python.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import refuse_on_red, seconds, write
from benchmarks.integers.steps import BATCH, NETWORKS, SPEC
from l1bn import quantized
from l1bn.ops.int8 import conv
from l1bn.quantized.kernels import Kernels
from l1bn.quantized.kernels.native import NativeKernels
from l1bn.recipes.models import ModelSpec, build_model

OPERATIONS = {
    "conv2d": "convolution forward",
    "conv2d_input_gradient": "input gradient",
    "conv2d_weight_gradient": "weight gradient",
    "norm_forward": "norm forward",
    "norm_backward": "norm backward",
    "rescale": "rescaling",
    "add": "additions",
    "sgd_step": "SGD",
}
PEAK_FLAGS = {
    "baseline": ["-msse2"],
    "avx2": ["-mavx2"],
    "avx512": ["-mavx512bw"],
    "avxvnni": ["-mavx2", "-mavxvnni"],
    "avx512vnni": ["-mavx512vnni"],
}
REST = "the rest"
WARM_UP = 3
_COPIED = 1 << 26  # bytes, beyond the caches


@dataclass
class Spent:
    """What the calls of an operation took in one step."""

    calls: int = 0
    seconds: float = 0.0
    macs: int = 0
    moved: int = 0


class Timed:
    """Kernels that note what each call takes."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self.spent: dict[str, Spent] = defaultdict(Spent)

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.kernels, name)

        def timed(*inputs: Any, **options: Any) -> Any:
            start = perf_counter()
            found = call(*inputs, **options)
            spent = self.spent[name]
            spent.seconds += perf_counter() - start
            spent.calls += 1
            spent.macs += products(name, inputs, found)
            spent.moved += nbytes((inputs, list(options.values()), found))
            return found

        return timed


def watch(network: quantized.IntegerNetwork) -> Timed:
    """Let a network compute by native kernels that are timed."""
    timed: Any = Timed(NativeKernels())
    clock: Any = network.clock
    clock.kernels = lambda _: timed
    return timed


def products(name: str, inputs: tuple[Any, ...], found: Any) -> int:
    """Return the multiplications of a convolution's call, padding included."""
    if name == "conv2d":
        return int(found[0].numel() * inputs[1][0].numel())
    if name == "conv2d_input_gradient":
        return int(inputs[0].numel() * inputs[1][0].numel())
    if name == "conv2d_weight_gradient":
        return int(inputs[1].numel() * found[0].numel())
    return 0


def nbytes(value: Any) -> int:
    """Return the bytes of all tensors in a call's arguments or results."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, (list, tuple)):
        return sum(map(nbytes, value))
    return 0


def compile_peak(isa: str, *options: str) -> None:
    """Compile ``peak.c`` for an instruction set of the integer convolutions."""
    source = Path(__file__).with_name("peak.c")
    subprocess.run(["cc", "-O3", *PEAK_FLAGS[isa], *options, str(source)], check=True)


def peak() -> float:
    """Return the 8-bit products per second of one thread."""
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/peak"
        compile_peak(conv.isa(), "-o", program)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    return int(lines[0]) / min(map(float, lines[1:]))


def bandwidth() -> float:
    """Return the bytes per second that a copy reads and writes, with the threads of torch."""
    source = torch.zeros(_COPIED, dtype=torch.int8)
    target = torch.ones_like(source)
    return 2 * _COPIED / min(seconds(lambda: target.copy_(source)) for _ in range(20))


def measure(name: str, width: float, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each operation of a network's step."""
    torch.manual_seed(0)
    network = quantized.prepare(build_model(name, "l1", ModelSpec(**SPEC, width=width)))
    optimizer = quantized.SGD(network, lr=1e-3, weight_decay=5e-4)
    x = quantized.quantize(torch.randn(BATCH, 3, 32, 32), -5)
    x = quantized.QTensor(x.values.contiguous(memory_format=torch.channels_last), x.exponent)
    target = torch.randint(10, (BATCH,))
    kernels = watch(network)

    def step() -> None:
        loss = quantized.cross_entropy(network, network(x), target)
        network.backward(loss.error)
        optimizer.step()

    before = peak()
    steps: list[float] = []
    spent: dict[str, list[Spent]] = defaultdict(list)
    for index in range(rounds + WARM_UP):
        kernels.spent.clear()
        whole = seconds(step)
        if index < WARM_UP:
            continue
        steps.append(whole)
        for operation, found in kernels.spent.items():
            spent[operation].append(found)
        spent[REST].append(Spent(1, whole - sum(s.seconds for s in kernels.spent.values())))
    best, copied = max(before, peak()) * torch.get_num_threads(), bandwidth()
    whole = statistics.median(steps)
    return [
        {"network": name, "threads": torch.get_num_threads(), "isa": conv.isa()}
        | row(OPERATIONS.get(operation, operation), found, whole)
        | floors(found, best, copied)
        for operation, found in spent.items()
    ]


def row(operation: str, found: list[Spent], whole: float) -> dict[str, Any]:
    """Return what an operation takes of a step."""
    taken = statistics.median(s.seconds for s in found)
    return {
        "operation": operation,
        "calls": found[0].calls,
        "ms": round(1e3 * taken, 3),
        "share": round(taken / whole, 4),
    }


def floors(found: list[Spent], best: float, copied: float) -> dict[str, Any]:
    """Return time per product against the peak's, and time against a copy of the same bytes."""
    taken, one = statistics.median(s.seconds for s in found), found[0]
    return {
        "macs": one.macs or "",
        "ns_per_mac": round(1e9 * taken / one.macs, 6) if one.macs else "",
        "peak_ns_per_mac": round(1e9 / best, 6) if one.macs else "",
        "share_of_peak": round(one.macs / best / taken, 4) if one.macs else "",
        "mib": round(one.moved / 2**20, 2) if one.moved else "",
        "over_copy": round(taken * copied / one.moved, 2) if one.moved else "",
    }


def main() -> None:
    """Measure both networks at one thread and at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, torch.get_num_threads()])
    options = parser.parse_args()
    refuse_on_red("tests/ops/int8/test_conv.py", "tests/ops/int8/test_norm.py")
    rows = []
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        for name, width in NETWORKS.items():
            for found in measure(name, width, options.rounds):
                rows.append(found)
                print(found, flush=True)
    print(write("integer_profile", rows))


if __name__ == "__main__":
    main()
