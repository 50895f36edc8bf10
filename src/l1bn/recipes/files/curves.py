"""The training curve: kept with the checkpoint, shown as CSV and TensorBoard events."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from l1bn.errors import UserError
from l1bn.recipes.files.checkpoint import CHECKPOINT, Checkpoint, load_checkpoint
from l1bn.recipes.files.writing import cannot_write, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

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
TABLES = {"epochs": EPOCH_COLUMNS, "steps": STEP_COLUMNS}
"""Tables of a classifier's run."""
Rows = list[dict[str, float]]
_WHOLE = ("epoch", "step")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def saved_rows(folder: Path, table: str, command: str = "train") -> Rows:
    """Return the rows of a run's table: those of its checkpoint, or else of the CSV.

    Raises:
        UserError: If neither can be read.
    """
    checkpoint = folder / CHECKPOINT
    content = load_checkpoint(checkpoint, command) if checkpoint.is_file() else {}
    if "curves" not in content:
        return _from_csv(folder / f"{table}.csv")
    found = content["curves"]
    entry = found.get(table) if isinstance(found, dict) else None
    if not isinstance(entry, dict) or not isinstance(entry.get("columns"), list):
        raise UserError(f"{checkpoint}: expected curves.{table}, got none; it cannot be used")
    return _checked(checkpoint, table, entry, tuple(entry["columns"]))


def _from_csv(path: Path) -> Rows:
    """Read a CSV file whose every row must be whole."""
    try:
        rows = read_rows(path)
        numbers = [{k: _number(k, v) for k, v in row.items()} for row in rows]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"{path} is damaged; restore it, or start the run anew") from error
    return numbers


def _number(column: str, text: str) -> float:
    value = int(text) if column in _WHOLE else float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _checked(path: Path, table: str, entry: Mapping[str, object], columns: tuple[str, ...]) -> Rows:
    """Return rows from a checkpoint as they were given to ``CurveLog.row``."""
    rows = entry.get("rows")
    whole = isinstance(rows, list) and all(
        isinstance(row, list)
        and len(row) == len(columns)
        and all(type(v) in (int, float) for v in row)
        for row in rows
    )
    if not isinstance(rows, list) or entry.get("columns") != list(columns) or not whole:
        raise UserError(f"{path}: curves.{table} is no table of {', '.join(columns)}")
    return [dict(zip(columns, row, strict=True)) for row in rows]


class Table(TypedDict):
    """Rows as a checkpoint keeps them."""

    columns: list[str]
    rows: list[list[float]]


class CurveLog:
    """Rows of ``epochs.csv`` and ``steps.csv`` of a run, or of other tables.

    The rows are kept in memory and go into the checkpoint. The CSV files follow as the run goes,
    for whoever looks at them, and are written anew from the rows with each checkpoint.

    Args:
        folder: Folder of the run.
        tables: Columns by the name of the file; each must have a column ``step``.
        writes: Write files; otherwise the rows are only kept, where another process writes.
    """

    def __init__(
        self,
        folder: Path,
        tables: Mapping[str, tuple[str, ...]] = TABLES,
        writes: bool = True,
    ) -> None:
        self._folder = folder
        self._writes = writes
        self._tables = dict(tables)
        self._rows: dict[str, Rows] = {name: [] for name in tables}
        self._writer: SummaryWriter | None = None

    def restore(self, saved: Checkpoint, step: int) -> None:
        """Take the rows of a checkpoint; one of an older version has them in the CSV files.

        Raises:
            UserError: If rows are missing or damaged.
        """
        path = self._folder / CHECKPOINT
        for name, columns in self._tables.items():
            if "curves" in saved:
                entry = saved["curves"].get(name) if isinstance(saved["curves"], dict) else None
                rows = _checked(path, name, entry if isinstance(entry, dict) else {}, columns)
                steps = [row["step"] for row in rows]
                if steps != sorted(steps) or max(steps, default=0) > step:
                    raise UserError(f"{path}: expected curves.{name} up to step {step}, got more")
            else:
                rows = _from_csv(self._folder / f"{name}.csv")
                if rows and set(rows[0]) != set(columns):
                    raise UserError(f"{self._folder / name}.csv is damaged; start the run anew")
                rows = [row for row in rows if row["step"] <= step]
            self._rows[name] = rows

    def open(self, step: int, tensorboard: bool) -> None:
        """Start to write.

        Args:
            step: Step from which the run continues; later events of TensorBoard are hidden.
            tensorboard: Write TensorBoard events to ``tensorboard/`` too.
        """
        self.write()
        if tensorboard and self._writes:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder / "tensorboard"), purge_step=step + 1)

    def saved(self) -> dict[str, Table]:
        """Return all rows as a checkpoint keeps them."""
        return {
            name: Table(
                columns=list(columns),
                rows=[[row[c] for c in columns] for row in self._rows[name]],
            )
            for name, columns in self._tables.items()
        }

    def rows(self, name: str) -> Rows:
        """Return the rows of a table."""
        return list(self._rows[name])

    def row(self, name: str, row: Mapping[str, float]) -> None:
        """Append a row to the table of that name."""
        columns = self._tables[name]
        self._rows[name].append({c: row[c] for c in columns})
        if not self._writes:
            return
        path = self._folder / f"{name}.csv"
        try:
            with path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerow([row[c] for c in columns])
        except OSError as error:
            raise cannot_write(path, error) from error
        if self._writer is not None:
            for column in columns:
                if column not in _WHOLE:
                    self._writer.add_scalar(f"{name}/{column}", row[column], int(row["step"]))

    def drop(self, name: str, step: int) -> None:
        """Remove the row of a step."""
        self._rows[name] = [row for row in self._rows[name] if row["step"] != step]

    def write(self) -> None:
        """Write the CSV files anew, each as one step."""
        if not self._writes:
            return
        for name, columns in self._tables.items():
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([row[c] for c in columns] for row in self._rows[name])
            write_text(self._folder / f"{name}.csv", text.getvalue())

    def close(self) -> None:
        """Finish the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
