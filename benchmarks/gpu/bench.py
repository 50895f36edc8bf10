"""Measure L1BN's GPU kernels against nn.BatchNorm2d: tests, copy, operators, networks.

    python benchmarks/gpu/bench.py [--out results/FOLDER] [--parts tests copy operators networks]
    python benchmarks/gpu/bench.py --tiny     # the same from start to end, interpreted on a CPU

Five minutes on one H100, without network. Rows are written as they come, so that an interrupted run
keeps what it measured; every row names the card. Operators are forward + backward of norm, addition
and ReLU; rivals are torch's own (cuDNN where torch picks it), eager and compiled, in one process in
turn. Networks are training steps of `transformers`' ResNet under bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import copy
import csv
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PARTS = ("tests", "copy", "operators", "networks")


@dataclass(frozen=True)
class Scale:
    """What a full and a tiny run differ in."""

    device: str
    rounds: int
    copy_elements: int
    operators: tuple[tuple[tuple[int, ...], str, bool, bool], ...]
    networks: tuple[tuple[str, int, int], ...]
    compiled: bool


def _resnet50(batch: int) -> Iterator[tuple[tuple[int, ...], str, bool, bool]]:
    shapes = [(64, 112), (64, 56), (256, 56), (512, 28), (1024, 14), (2048, 7)]
    for channels, size in shapes:
        shape = (batch, channels, size, size)
        residual = channels >= 256
        yield shape, "bfloat16", True, residual
        if batch == 64:
            yield shape, "float32", False, residual


FULL = Scale(
    "cuda",
    30,
    2**28,
    (
        *_resnet50(64),
        *_resnet50(256),
        ((512, 16, 32, 32), "float32", False, True),
        ((512, 64, 8, 8), "float32", False, True),
        ((512, 64, 8, 8), "bfloat16", True, True),
    ),
    (("resnet18", 256, 224), ("resnet50", 256, 224)),
    True,
)
TINY = Scale(
    "cpu",
    1,
    2**12,
    (((2, 8, 4, 4), "float32", False, True), ((2, 8, 4, 4), "bfloat16", True, False)),
    (("tiny", 2, 32),),
    False,
)


class Rows:
    """A CSV that holds every row from the moment it is known."""

    def __init__(self, path: Path, environment: dict[str, Any]) -> None:
        self.path, self.environment, self.fields = path, environment, list[str]()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.with_suffix(".json").write_text(json.dumps(environment, indent=2, default=str) + "\n")

    def add(self, **row: Any) -> None:
        """Append a row, and show it."""
        row = {"gpu": self.environment["gpu"], **row}
        new = not self.fields
        self.fields = self.fields or list(row)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.fields, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(*(f"{k}={v}" for k, v in row.items() if k != "gpu"), flush=True)


def timed(call: Callable[[], object], device: str) -> float:
    """Milliseconds of a call, on the device."""
    import torch

    if device == "cpu":
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def in_turn(
    calls: dict[str, Callable[[], object]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Times of each call, one after the other in every round, after a warm-up."""
    for call in calls.values():
        for _ in range(3 if device == "cuda" else 1):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed(call, device))
    return times


def spread(samples: list[float]) -> dict[str, float]:
    """Median and quartiles [ms]."""
    if len(samples) < 2:
        return {"ms": samples[0], "low": samples[0], "high": samples[0]}
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {"ms": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}


def run_tests(scale: Scale, out: Path) -> None:
    """Refuse to measure what is wrong."""
    del out
    gpu = scale.device == "cuda"
    tests = ["tests/ops/triton/test_gpu.py"]
    if not gpu:
        tests = ["tests/ops/triton/interpreted.py", "-k", "device"]
    paths = [str(ROOT / "tests/support"), *filter(None, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    plugin = [] if gpu else ["-p", "triton_interpreter"]
    command = [sys.executable, "-m", "pytest", *plugin, "-p", "no:xdist", "-q", "-W", "ignore"]
    if subprocess.run([*command, *tests], cwd=ROOT, env=environment, check=False).returncode:
        raise SystemExit("the tests of what is timed failed: no numbers")


def measure_copy(scale: Scale, out: Path) -> None:
    """Bandwidth of a plain copy, bytes read and written [GB/s]."""
    import torch

    source = torch.ones(scale.copy_elements, device=scale.device)
    target = torch.empty_like(source)
    samples = in_turn({"copy": lambda: target.copy_(source)}, scale.rounds, scale.device)["copy"]
    gigabytes = 2 * source.numel() * 4 / 1e9
    rows = Rows(out / "copy.csv", environment())
    rows.add(gigabytes_per_second=round(gigabytes / (spread(samples)["ms"] / 1e3), 1))


def environment() -> dict[str, Any]:
    """What was measured on."""
    from l1bn.environment import describe_environment

    return describe_environment()


def step_of(forward: Callable[..., Any], leaves: list[Any], grad: Any) -> Callable[[], object]:
    """Forward and backward as one call."""

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        forward(*leaves).backward(grad)

    return step


def operator_calls(
    shape: tuple[int, ...], dtype: Any, last: bool, added: bool, scale: Scale
) -> Any:
    """The variants of one shape, and what the kernels must move at least [bytes]."""
    import torch
    import torch.nn.functional as F

    from l1bn.functional import l1_batch_norm

    def tensor() -> Any:
        v = torch.randn(shape, device=scale.device, dtype=dtype)
        return v.contiguous(memory_format=torch.channels_last) if last else v

    x = tensor().requires_grad_()
    weight = torch.rand(shape[1], device=scale.device).add(0.5).requires_grad_()
    bias = torch.zeros(shape[1], device=scale.device).requires_grad_()
    leaves = [x, weight, bias, *([tensor().requires_grad_()] if added else [])]
    grad = tensor()
    state = [torch.zeros(shape[1], device=scale.device), torch.ones(shape[1], device=scale.device)]

    def rival(x: Any, weight: Any, bias: Any, residual: Any = None) -> Any:
        y = F.batch_norm(x, *state, weight, bias, True)
        return F.relu(y if residual is None else y + residual, inplace=True)

    def ours(x: Any, weight: Any, bias: Any, residual: Any = None) -> Any:
        return l1_batch_norm(
            x, *state, weight, bias, True, activation="relu", residual=residual, backend="triton"
        )

    calls = {"BN": step_of(rival, leaves, grad), "L1BN": step_of(ours, leaves, grad)}
    if scale.compiled:
        calls["BN compiled"] = step_of(torch.compile(rival), leaves, grad)
        calls["L1BN compiled"] = step_of(torch.compile(ours), leaves, grad)
    # Forward reads x once and writes y; backward reads y, the gradient and a bit and writes dx.
    floor = x.numel() * ((5 + 2 * added) * x.element_size() + 0.25)
    return calls, floor


def measure_operators(scale: Scale, out: Path) -> None:
    """Forward + backward of norm (+ addition) + ReLU."""
    import torch

    rows = Rows(out / "operators.csv", environment())
    for shape, dtype, last, added in scale.operators:
        calls, floor = operator_calls(shape, getattr(torch, dtype), last, added, scale)
        times = in_turn(calls, scale.rounds, scale.device)
        base = statistics.median(times["BN"])
        for name, samples in times.items():
            found = spread(samples)
            rows.add(
                shape="x".join(map(str, shape)), dtype=dtype, channels_last=last, residual=added,
                variant=name, **found, times_bn=round(base / found["ms"], 3),
                floor_gigabytes_per_second=round(floor / found["ms"] / 1e6, 1),
            )  # fmt: skip


def network(name: str) -> Any:
    """A ResNet of transformers, without a download."""
    sys.path.insert(0, str(ROOT))
    importlib.import_module(
        "benchmarks.models.torchvision_operators"
    )  # transformers imports torchvision
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {
        "resnet50": {},
        "resnet18": {
            "layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512],
        },
        "tiny": {
            "layer_type": "basic", "depths": [1], "hidden_sizes": [8], "embedding_size": 8,
        },
    }  # fmt: skip
    return ResNetForImageClassification(ResNetConfig(num_labels=10, **sizes[name]))


def network_steps(name: str, batch: int, size: int, scale: Scale) -> Iterator[tuple[str, Any]]:
    """Training steps of the variants of one network."""
    import torch

    import l1bn

    torch.manual_seed(0)
    plain = network(name).to(scale.device, memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, size, size, device=scale.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=scale.device)
    ours = copy.deepcopy(plain)
    l1bn.convert_(ours, example=images[:2])
    models = {"BN": plain, "L1BN": ours}
    if scale.compiled:
        models["BN compiled"] = torch.compile(copy.deepcopy(plain))
        models["L1BN compiled"] = torch.compile(copy.deepcopy(ours))
    for variant, model in models.items():
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

        def step(model: Any = model, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(scale.device, torch.bfloat16):
                loss = model(images, labels=labels).loss
            loss.backward()
            optimizer.step()

        yield variant, step


def measure_networks(scale: Scale, out: Path) -> None:
    """Training steps, and the memory that one takes at most."""
    import torch

    rows = Rows(out / "networks.csv", environment())
    for name, batch, size in scale.networks:
        steps = dict(network_steps(name, batch, size, scale))
        peaks = {}
        for variant, step in steps.items():
            step()
            if scale.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
                step()
                peaks[variant] = (torch.cuda.max_memory_allocated() - held) / 2**20
        times = in_turn(steps, max(1, scale.rounds // 3), scale.device)
        base = statistics.median(times["BN"])
        for variant, samples in times.items():
            found = spread(samples)
            rows.add(
                network=name, batch=batch, variant=variant, **found,
                times_bn=round(base / found["ms"], 3), peak_mib=peaks.get(variant),
            )  # fmt: skip


def main() -> int:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tiny", action="store_true", help="on a CPU, interpreted: no figures")
    options = parser.parse_args()
    if options.tiny:
        os.environ["TRITON_INTERPRET"] = "1"
    scale = TINY if options.tiny else FULL
    import torch

    if scale.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("expected a GPU, torch sees none: --tiny runs everything on a CPU")
    parts = {
        "tests": run_tests,
        "copy": measure_copy,
        "operators": measure_operators,
        "networks": measure_networks,
    }
    for part in options.parts:
        print(f"== {part}", flush=True)
        parts[part](scale, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
