"""Tables of what a network takes on a device, from the files of memory.py and choices.py."""

from __future__ import annotations

import csv

from benchmarks.harness import RESULTS

Row = dict[str, str]
Table = tuple[list[str], list[list[str]]]
LEARN = {
    "classifier": "classifier",
    "4": "last stage and classifier",
    "affine": "γ, β, biases",
    "all": "everything",
}
TARGETS = {
    "cortex-m0": "Cortex-M0",
    "cortex-m3": "Cortex-M3",
    "cortex-m4": "Cortex-M4",
    "cortex-m7": "Cortex-M7",
    "cortex-m55": "Cortex-M55, MVE",
    "riscv32": "rv32imac",
}


def read(name: str) -> list[Row]:
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def memory() -> Table:
    """RAM by what learns, momentum and batch."""
    body = []
    for row in read("device_memory"):
        momentum = "none" if float(row["momentum"]) == 0 else row["momentum"]
        sizes = [f"{int(row[c]):,}" for c in ("fastest_bytes", "least_bytes")]
        body.append([LEARN[row["learn"]], momentum, row["batch"], *sizes])
    return ["what learns", "momentum", "batch", "fastest", "least"], body


def targets() -> Table:
    """Flash, stack and instructions of one network, by processor."""
    body = []
    for row in read("device_targets"):
        sizes = [f"{int(row[c]):,}" for c in ("flash_bytes", "stack_bytes")]
        counts = [
            millions(row[f"{kind}{part}_instructions"])
            for part in ("inference", "step")
            for kind in ("plain_", "")
        ]
        body.append([TARGETS[row["target"]], *sizes, *counts])
    head = ["", "flash [bytes]", "stack [bytes]", "an inference, plain [millions]"]
    return [*head, "with its vectors", "a step, plain [millions]", "with its vectors"], body


def choices() -> Table:
    """RAM, flash and instructions of a step, by the way in which layers are chosen."""
    columns = ("instructions", "worst_instructions", "plain_instructions")
    body = [
        [
            _chosen(row),
            *(f"{int(row[c]):,}" for c in ("ram", "flash")),
            *(millions(row[c]) for c in (*columns, "plain_worst_instructions")),
        ]
        for row in read("device_choices")
    ]
    head = ["what learns", "RAM [bytes]", "flash [bytes]", "a step [millions]", "worst step"]
    return [*head, "a step, plain [millions]", "worst step, plain"], body


def _chosen(row: Row) -> str:
    whole, count = LEARN[row["learn"]], row["count"]
    return {
        "all": whole,
        "last": f"of {whole}: last {'layer' if count == '1' else f'{count} layers'}",
        "in turn": f"of {whole}: one layer in turn",
        "largest": f"of {whole}: the layer with the largest gradients",
    }[row["way"]]


def millions(count: str) -> str:
    """Three digits of a number of instructions."""
    value = int(count) / 1e6
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


TABLES = {"memory": memory, "targets": targets, "choices": choices}
