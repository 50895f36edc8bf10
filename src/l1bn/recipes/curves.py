"""The training curve as CSV and TensorBoard events."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l1bn.recipes.checkpoint import write_text

__all__ = ["EPOCH_COLUMNS", "STEP_COLUMNS", "CurveLog", "read_rows"]

EPOCH_COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "seconds",
)
"""Columns of epochs.csv: accuracies as shares, the training time of the epoch in seconds."""
STEP_COLUMNS = ("step", "lr", "loss")
"""Columns of steps.csv: the loss of single batches."""
_TABLES = {"epochs": EPOCH_COLUMNS, "steps": STEP_COLUMNS}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class CurveLog:
    """Appends rows to ``epochs.csv`` and ``steps.csv`` of a run, or to other tables.

    Args:
        folder: Folder of the run.
        step: Step from which the run continues; later rows of a lost continuation are removed.
        tensorboard: Write TensorBoard events to ``tensorboard/`` too.
        tables: Columns by the name of the file; each must have a column `step`.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        tensorboard: bool,
        tables: Mapping[str, tuple[str, ...]] = _TABLES,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._tables = dict(tables)
        for name, columns in self._tables.items():
            path = folder / f"{name}.csv"
            kept = [r for r in read_rows(path) if int(r["step"]) <= step]
            lines = [",".join(columns), *(",".join(r[c] for c in columns) for r in kept)]
            write_text(path, "\n".join(lines) + "\n")
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def epoch(self, row: dict[str, float]) -> None:
        """Append the row of an epoch."""
        self.row("epochs", row)

    def step(self, row: dict[str, float]) -> None:
        """Append the row of a step."""
        self.row("steps", row)

    def row(self, name: str, row: Mapping[str, float]) -> None:
        """Append a row to the table of that name."""
        columns = self._tables[name]
        with (self._folder / f"{name}.csv").open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow([row[c] for c in columns])
        if self._writer is not None:
            for column in columns:
                if column not in ("epoch", "step"):
                    self._writer.add_scalar(f"{name}/{column}", row[column], int(row["step"]))

    def close(self) -> None:
        """Finish the files."""
        if self._writer is not None:
            self._writer.close()
