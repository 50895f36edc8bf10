"""The report as one file of HTML that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import jinja2
import pandas as pd

from l1bn.recipes.files.writing import write_text
from l1bn.recipes.report.plots import plot_accuracy, plot_costs, plot_loss, plot_ratios
from l1bn.recipes.report.terminal import results_rows
from l1bn.recipes.report.verdict import NAMES, verdict
from l1bn.recipes.results import CURVES, RESULTS, CompareResults, Settings

REPORT = "report.html"


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from ``results.json`` and ``curves.csv``.

    Args:
        folder: Folder of a comparison.

    Returns:
        The path of the report.
    """
    results: CompareResults = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    curves = pd.read_csv(folder / CURVES)
    html = render(
        "report.html.j2",
        results=results,
        names=NAMES,
        verdict=verdict(results),
        rows=results_rows(results),
        plots=_plots(curves, results),
        recipe=name_pairs(results["config"]),
        environment=name_pairs(results["environment"]),
    )
    path = folder / REPORT
    write_text(path, html)
    return path


def render(template: str, **values: object) -> str:
    """Return a page made from one of the templates in this folder."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("l1bn.recipes.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _plots(curves: pd.DataFrame, results: CompareResults) -> dict[str, str]:
    """Return the plots as separate documents, whose inner names cannot collide."""
    drawn: dict[str, Callable[[], str]] = {
        "accuracy": lambda: plot_accuracy(curves, results),
        "loss": lambda: plot_loss(curves),
        "costs": lambda: plot_costs(results),
        "ratios": lambda: plot_ratios(results),
    }
    return {name: data_address(draw().encode(), "svg+xml") for name, draw in drawn.items()}


def data_address(image: bytes, kind: str) -> str:
    """Return an image as an address that holds its content."""
    return f"data:image/{kind};base64," + base64.b64encode(image).decode()


def name_pairs(values: Settings) -> list[tuple[str, str]]:
    """Return names and values as text for readers."""
    return [(key.replace("_", " "), _text(value)) for key, value in values.items()]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
