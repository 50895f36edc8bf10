"""The results of a comparison as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from l1bn.recipes.report.verdict import NAMES, mebibytes

__all__ = ["results_rows", "results_table"]


def results_rows(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows of the table: what, L1BN, BN."""
    summary, step, saved = results["summary"], results["step"], results["saved_bytes"]

    def over_seeds(column: str, scale: float, digits: int, unit: str) -> list[str]:
        values = [summary[n][column] for n in NAMES]
        return [
            f"{scale * v['mean']:.{digits}f} ± {scale * v['std']:.{digits}f}{unit}" for v in values
        ]

    def quartiles(name: str) -> str:
        low, middle, high = (1e3 * step[name][q] for q in ("q25", "median", "q75"))
        return f"{middle:.1f} ({low:.1f} to {high:.1f}) ms"

    seeds = summary["l1"]["test_accuracy"]["n"]
    rows = [
        [f"test accuracy, {seeds} seeds", *over_seeds("test_accuracy", 100, 2, " %")],
        ["test loss", *over_seeds("test_loss", 1, 4, "")],
        ["training loss, last epoch", *over_seeds("train_loss", 1, 4, "")],
        [f"training step of {step['batch_size']} images", *(quartiles(n) for n in NAMES)],
        ["kept for backward", *(mebibytes(saved[n]) for n in NAMES)],
    ]
    return [(a, b, c) for a, b, c in rows]


def results_table(results: dict[str, Any]) -> Table:
    """Return the table for a terminal."""
    config = results["config"]
    table = Table(title=f"{config['model']} on {config['data']}, {config['epochs']} epochs")
    table.add_column("")
    for name in NAMES.values():
        table.add_column(name, justify="right")
    for row in results_rows(results):
        table.add_row(*row)
    return table
