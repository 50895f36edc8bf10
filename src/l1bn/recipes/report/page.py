"""The report as one file of HTML that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from l1bn.recipes.checkpoint import write_text
from l1bn.recipes.report.plots import plot_accuracy, plot_costs, plot_loss, plot_ratios
from l1bn.recipes.report.terminal import results_rows
from l1bn.recipes.report.verdict import NAMES, verdict

__all__ = ["REPORT", "write_report"]

REPORT = "report.html"


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from ``results.json`` and ``curves.csv``.

    Args:
        folder: Folder of a comparison.

    Returns:
        The path of the report.
    """
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    curves = pd.read_csv(folder / "curves.csv")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("l1bn.recipes.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.j2").render(
        results=results,
        names=NAMES,
        verdict=verdict(results),
        rows=results_rows(results),
        plots=_plots(curves, results),
        recipe=_pairs(results["config"]),
        environment=_pairs(results["environment"]),
    )
    path = folder / REPORT
    write_text(path, html)
    return path


def _plots(curves: pd.DataFrame, results: dict[str, Any]) -> dict[str, str]:
    """Return the plots as data addresses: separate documents, whose inner names cannot collide."""
    drawn: dict[str, Callable[[], str]] = {
        "accuracy": lambda: plot_accuracy(curves, results),
        "loss": lambda: plot_loss(curves),
        "costs": lambda: plot_costs(results),
        "ratios": lambda: plot_ratios(results),
    }
    return {name: _address(draw()) for name, draw in drawn.items()}


def _address(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _pairs(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Return names and values as text for readers."""
    return [(key.replace("_", " "), _text(value)) for key, value in values.items()]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
