"""The results of a comparison as a table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from l1bn.recipes.names import NormName
from l1bn.recipes.report.verdict import NAMES
from l1bn.recipes.results import CompareResults


def results_rows(results: CompareResults) -> list[tuple[str, str, str]]:
    """Return the rows of the table: what, L1BN, BN."""
    summary, step, saved = results["summary"], results["step"], results["saved_bytes"]

    def over_seeds(column: str, scale: float, digits: int) -> list[str]:
        values = [summary[n][column] for n in NAMES]
        return [f"{scale * v['mean']:.{digits}f} ± {scale * v['std']:.{digits}f}" for v in values]

    def quartiles(name: NormName) -> str:
        found = step[name]
        low, middle, high = (1e3 * v for v in (found["q25"], found["median"], found["q75"]))
        return f"{middle:.1f} ({low:.1f} to {high:.1f})"

    seeds = summary["l1"]["test_accuracy"]["n"]
    rows = [
        [f"test accuracy, {seeds} seeds [%]", *over_seeds("test_accuracy", 100, 2)],
        ["test loss [nat]", *over_seeds("test_loss", 1, 4)],
        ["training loss [nat]", *over_seeds("train_loss", 1, 4)],
        [f"step of {step['batch_size']} images [ms]", *(quartiles(n) for n in NAMES)],
        ["saved activation memory [MiB]", *(f"{saved[n] / 2**20:.1f}" for n in NAMES)],
    ]
    return [(a, b, c) for a, b, c in rows]


def results_table(results: CompareResults) -> Table:
    """Return the table for a terminal."""
    config = results["config"]
    title = Text(f"{config['model']} on {config['data']}, {config['epochs']} epochs")
    table = Table(title=title)
    table.add_column("")
    for name in NAMES.values():
        table.add_column(name, justify="right")
    for row in results_rows(results):
        table.add_row(*map(Text, row))  # brackets are units here, no markup
    return table
