"""Tables of integer training, from the CSV files that `small_batches.py` and `qat.py` write."""

from __future__ import annotations

import csv
from statistics import fmean, stdev

from benchmarks.harness import RESULTS

Row = dict[str, str]
Table = tuple[list[str], list[list[str]]]


def read(name: str) -> list[Row]:
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def spread(values: list[float]) -> str:
    return f"{fmean(values):.1f} ± {stdev(values):.1f}"


def small_batches() -> Table:
    """Accuracy by statistics and batch, float32 beside int8."""
    found = read("small_batches")
    batches = sorted({int(row["batch"]) for row in found}, reverse=True)
    body = []
    for kind, rate in dict.fromkeys((row["statistics"], row["rate"]) for row in found):
        for precision in ("float32", "int8"):
            wanted = (kind, rate, precision)
            mine = [r for r in found if (r["statistics"], r["rate"], r["precision"]) == wanted]
            cells = [
                spread([float(r["test_accuracy"]) for r in mine if int(r["batch"]) == batch])
                for batch in batches
            ]
            body.append([kind, rate, precision, *cells])
    return ["statistics", "rate", "", *(f"batch {batch}" for batch in batches)], body


def qat() -> Table:
    """Accuracy and time beside float32 BatchNorm."""
    found = read("qat")
    body = []
    for variant in dict.fromkeys(row["variant"] for row in found):
        mine = [row for row in found if row["variant"] == variant]
        slower = fmean(1 / float(row["over_batchnorm"]) for row in mine)
        accuracies = [float(row["test_accuracy"]) for row in mine]
        body.append([variant, str(len(mine)), spread(accuracies), f"{slower:.2f}"])
    return ["", "seeds", "test accuracy [%]", "time over float32 BatchNorm"], body


TABLES = {"small-batches": small_batches, "qat": qat}
