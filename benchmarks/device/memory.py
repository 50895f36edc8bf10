"""What ResNet-8 of MLPerf Tiny takes on a device: bytes of RAM, flash and stack, instructions.

    python -m benchmarks.device.memory

Writes ``results/device_memory.csv``, the RAM of the fastest program and of the smallest that
``l1bn.device`` accepts, and, where all compilers and emulators are there,
``results/device_targets.csv``: one network under a limit of RAM, built and run on every emulated
processor, every integer equal to Python's, by the processor's own vectors and (``plain``) without.
Each has its environment beside it. Weights and images
are random: no byte depends on them, the number of instructions does a little. Half a minute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.harness import write
from l1bn import device, quantized, tools
from l1bn.device.trial.comparison import difference
from l1bn.device.trial.report import flash_bytes
from l1bn.device.trial.run import Work, compile_trial, run_trial
from l1bn.device.trial.targets import TARGETS, Target

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests/support"))
from small_networks import EXPONENT, resnet8  # noqa: E402

SHAPE = (3, 32, 32)
LAST_STAGE = 4
"""Layers with weights in the last stage, its shortcut among them, and the classifier."""
PLANS: tuple[tuple[device.Learn, float, int], ...] = (
    ("classifier", 0.9, 8),
    *((LAST_STAGE, 0.0, batch) for batch in (1, 2, 3, 4)),
    (LAST_STAGE, 0.9, 1),
    ("affine", 0.0, 1),
    ("all", 0.0, 1),
    ("all", 0.9, 8),
)
"""What learns, momentum and batch."""
LIMIT = 254 * 1024
"""RAM of the network that is run [bytes]: 256 KiB, less 2 KiB for the stack."""
RUN = (LAST_STAGE, device.Options(batch=2, momentum=0.0, ram=LIMIT))


def network() -> tuple[quantized.IntegerNetwork, quantized.QTensor]:
    """The network after one forward pass, which fills its statistics, and images."""
    torch.manual_seed(0)
    prepared = quantized.prepare(resnet8(16, SHAPE[0]))
    images = quantized.quantize(2 * torch.rand(8, *SHAPE) - 1, EXPONENT)
    prepared(images)
    prepared.start_anew()
    return prepared, images


def least(plan: Callable[[int | None], device.Build]) -> int:
    """The smallest RAM that is accepted: a byte less than the last plan took, until none fits."""
    found = plan(None).ram
    with suppress(ValueError):
        while True:
            found = plan(found - 1).ram
    return found


def memory(
    prepared: quantized.IntegerNetwork, learn: device.Learn, momentum: float, batch: int
) -> dict[str, Any]:
    """A row of device_memory.csv."""
    options = device.Options(batch=batch, momentum=momentum)
    device.choose(prepared, learn)

    def plan(ram: int | None) -> device.Build:
        return device.build(prepared, SHAPE, replace(options, ram=ram))

    row: dict[str, Any] = {"learn": learn, "momentum": momentum, "batch": batch}
    return row | {"fastest_bytes": plan(None).ram, "least_bytes": least(plan)}


def memories() -> list[dict[str, Any]]:
    prepared, _ = network()
    return [memory(prepared, *plan) for plan in PLANS]


def trial(target: Target, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Figures of one inference and one training step, equal to Python's."""
    prepared, images = network()
    learn, options = RUN
    device.choose(prepared, learn)
    build = device.build(prepared, SHAPE, options)
    few = quantized.QTensor(images.values[: options.batch], images.exponent)
    work = Work(few, torch.arange(options.batch), [0.01])
    with TemporaryDirectory() as folder:
        program = compile_trial(build, work, target, Path(folder), flags)
        outcome = run_trial(build, program, target)
        flash = flash_bytes(target, program, work)
    if found := difference(build, work, outcome):
        raise SystemExit(f"{target.compiler} and Python disagree about {found}: no numbers")
    return {
        "ram_bytes": build.ram,
        "stack_bytes": outcome.stack,
        "flash_bytes": flash,
        "inference_instructions": sum(n for _, _, n in outcome.instructions.values()),
        "step_instructions": outcome.steps[0],
        "compiler": tools.run([target.compiler, "--version"]).output.splitlines()[0],
    }


def trials() -> Iterator[dict[str, Any]]:
    for name, target in TARGETS.items():
        if not target.counts:
            continue
        if reason := target.missing():
            raise SystemExit(f"no device_targets.csv, {name}: {reason}")
        plan = {"learn": RUN[0], "batch": RUN[1].batch, "limit_bytes": LIMIT}
        own, plain = trial(target), trial(target, ["-DL1BN_PLAIN"])
        counted = {f"plain_{k}": v for k, v in plain.items() if k.endswith("instructions")}
        yield {"target": name} | plan | own | counted


def main() -> None:
    for name, rows in (("device_memory", memories()), ("device_targets", trials())):
        table = []
        for row in rows:
            print(*(f"{k} {v}" for k, v in row.items()), flush=True)
            table.append(row)
        print(write(name, table))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # none, but --help
    main()
