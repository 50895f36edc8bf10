"""Table and heat maps of a comparison of continual learning."""

from __future__ import annotations

import csv
import io
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from l1bn.recipes.continual.config import LEARNERS
from l1bn.recipes.continual.metrics import (
    Matrix,
    average_accuracy,
    backward_transfer,
    forgetting,
)
from l1bn.recipes.files.writing import write_text
from l1bn.recipes.report.plots import draw_svg

Record = dict[str, Any]
NAMES = {"float-l2": "float32 BN", "float-l1": "float32 L1BN", "int8-l1": "int8 L1BN"}
FIELDS = ("buffer", "buffer_kib", "learner", "seeds", "accuracy", "std", "forgetting", "transfer")
_PANEL = 2.1  # side of a heat map [inches]


def rows_of(records: list[Record]) -> list[dict[str, Any]]:
    """Return a row for each buffer and learner: means over the seeds [%]."""
    rows = []
    for buffer in dict.fromkeys(r["buffer"] for r in records):
        for learner in LEARNERS:
            found = [r for r in records if (r["buffer"], r["learner"]) == (buffer, learner)]
            if found:
                rows.append(_row(found))
    return rows


def _row(found: list[Record]) -> dict[str, Any]:
    matrices: list[Matrix] = [r["matrix"] for r in found]
    accuracies = [100 * average_accuracy(m) for m in matrices]
    joint = found[0]["buffer"] is None
    return {
        "buffer": "joint" if joint else found[0]["buffer"],
        "buffer_kib": round(mean(r["buffer_kib"] for r in found), 1),
        "learner": NAMES[found[0]["learner"]],
        "seeds": len(found),
        "accuracy": round(mean(accuracies), 2),
        "std": round(stdev(accuracies), 2) if len(found) > 1 else "",
        "forgetting": "" if joint else round(100 * mean(map(forgetting, matrices)), 2),
        "transfer": "" if joint else round(100 * mean(map(backward_transfer, matrices)), 2),
    }


def write_report(records: list[Record], out: Path) -> tuple[Path, Path]:
    """Write ``table.csv`` and ``matrices.svg``, and return their paths."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(records))
    write_text(out / "table.csv", text.getvalue())
    write_text(out / "matrices.svg", heat_maps(records))
    return out / "table.csv", out / "matrices.svg"


def heat_maps(records: list[Record]) -> str:
    """Return the accuracy of each task after each task: learners down, buffers across."""
    buffers = [b for b in dict.fromkeys(r["buffer"] for r in records) if b is not None]
    learners = [name for name in LEARNERS if any(r["learner"] == name for r in records)]

    def draw(*axes: Axes) -> None:
        for place, (learner, buffer) in zip(axes, product(learners, buffers), strict=True):
            found = [r for r in records if (r["buffer"], r["learner"]) == (buffer, learner)]
            _heat_map(place, f"{NAMES[learner]}, {buffer} kept", found)

    size = _PANEL * len(buffers), (_PANEL + 0.5) * len(learners)
    return draw_svg(*size, len(buffers), draw, len(learners))


def _heat_map(axes: Axes, title: str, found: list[Record]) -> None:
    matrix = 100 * np.mean([r["matrix"] for r in found], axis=0)
    axes.imshow(matrix, vmin=0, vmax=100, cmap="viridis")
    axes.grid(visible=False)
    for (i, j), value in np.ndenumerate(matrix):
        colour = "black" if value > 60 else "white"
        axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    tasks = found[0]["tasks"]
    axes.set_xticks(range(len(tasks)), tasks, rotation=90, fontsize=7)
    axes.set_yticks(range(len(tasks)), tasks, fontsize=7)
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("accuracy on classes [%]" if "-" in tasks[0] else "accuracy on [%]", fontsize=7)
    axes.set_ylabel("after learning", fontsize=7)


def table_text(records: list[Record]) -> str:
    """Return the table as text."""
    rows = [FIELDS, *(tuple(str(row[f]) for f in FIELDS) for row in rows_of(records))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(FIELDS))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
