"""Pictures of the tables that the other parts left."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.scale import Run

Table = list[dict[str, str]]


def read(path: Path) -> Table:
    """The rows of a table; none where there is no such table."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def bars(rows: Table, label: Callable[[dict[str, str]], str], title: str, path: Path) -> None:
    """A group of bars for each label, a bar for each variant but BatchNorm itself, which is 1."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    labels = list(dict.fromkeys(label(row) for row in rows))
    variants = [v for v in dict.fromkeys(row["variant"] for row in rows) if v != "BN"]
    values = {(label(row), row["variant"]): float(row["times_bn"] or "nan") for row in rows}
    height = 0.8 / max(1, len(variants))
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.4 * len(labels)), layout="constrained")
    for place, variant in enumerate(variants):
        at = [i + place * height for i in range(len(labels))]
        widths = [values.get((name, variant), float("nan")) for name in labels]
        axes.barh(at, widths, height, label=variant)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(labels))], labels)
    axes.invert_yaxis()
    axes.set_xlabel(title)
    axes.set_title(rows[0]["gpu"] or "a CPU: no figures")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _operator(row: dict[str, str]) -> str:
    order = "channels_last" if row["channels_last"] == "True" else "NCHW"
    added = ", add" if row["residual"] == "True" else ""
    return f"{row['shape'].replace('x', '×')}, {row['dtype']}, {order}{added}"


#: Table, what a group of bars is, what a bar says.
PICTURES: tuple[tuple[str, Callable[[dict[str, Any]], str], str], ...] = (
    ("operators", _operator, "speed of norm + ReLU, forward and backward; BatchNorm is 1"),
    ("networks", lambda row: f"{row['network']}, batch {row['batch']}",
     "speed of a training step; BatchNorm is 1"),
    ("batch", lambda row: f"{row['network']}, {row['memory_mib']} MiB",
     "largest batch; BatchNorm's is 1"),
    ("gan", lambda row: f"{row['model']}, batch {row['batch']}",
     "speed of a training step; BatchNorm is 1"),
)  # fmt: skip


def draw_plots(run: Run) -> None:
    """Draw every table that is there."""
    for name, label, title in PICTURES:
        rows = read(run.out / f"{name}.csv")
        if rows:
            bars(rows, label, title, run.out / f"{name}.png")
            print(f"{name}.png", flush=True)
