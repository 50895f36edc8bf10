"""What each choice of learning layers costs ResNet-8 of MLPerf Tiny on a Cortex-M4.

    python -m benchmarks.device.choices

Writes ``results/device_choices.csv`` and its environment: RAM, flash and instructions of a training
step of two images, without momentum, for every depth of learning, for some blocks of the last stage
and of the whole network, for one in turn, and for the one with the largest gradients, measuring
included. QEMU counts; every integer is equal to Python's. Weights and images are random: what they
are decides which block has the largest gradients. A few minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.device.memory import LAST_STAGE, SHAPE, network
from benchmarks.harness import write
from l1bn import device, quantized
from l1bn.device.trial.choices import (
    Choice,
    Policy,
    block_choices,
    measure,
    whole_choice,
    with_rounds,
)
from l1bn.device.trial.run import Work
from l1bn.device.trial.targets import TARGETS, Target

TARGET = "cortex-m4"
OPTIONS = device.Options(batch=2, momentum=0.0)
DEPTHS: tuple[device.Learn, ...] = ("classifier", LAST_STAGE, "affine", "all")
PARTIAL = (LAST_STAGE, "all")
"""Depths of which some blocks learn in a step."""


def choices(target: Target, learn: device.Learn, policy: Policy) -> list[Choice]:
    """The rows of one depth."""
    prepared, images = network()
    device.choose(prepared, learn)
    build = device.build(prepared, SHAPE, OPTIONS)
    work = Work(images, torch.arange(len(images.values)), [0.01])
    if learn in PARTIAL:
        steps = with_rounds(build, work, policy)
        work = dataclasses.replace(steps, **again(images, len(steps.rates) * OPTIONS.batch))
    found = measure(build, work, target)
    rows = [whole_choice(build, str(learn), found)]
    return rows + (block_choices(build, str(learn), found) if learn in PARTIAL else [])


def again(images: quantized.QTensor, count: int) -> dict[str, Any]:
    """The images over and over, until they are so many."""
    places = torch.arange(count) % len(images.values)
    values = quantized.QTensor(images.values[places], images.exponent)
    return {"images": values, "labels": places}


def rows() -> Iterator[dict[str, Any]]:
    target = TARGETS[TARGET]
    if reason := target.missing():
        raise SystemExit(f"no device_choices.csv: {reason}")
    for learn in DEPTHS:
        for choice in choices(target, learn, Policy()):
            row = dataclasses.asdict(choice)
            del row["refused"]
            yield {"target": TARGET, "batch": OPTIONS.batch} | row


def main() -> None:
    table = []
    for row in rows():
        print(*(f"{k} {v}" for k, v in row.items()), flush=True)
        table.append(row)
    print(write("device_choices", table))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # none, but --help
    main()
