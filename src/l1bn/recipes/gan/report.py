"""The report of a comparison of GANs: sentences, a table, curves, and the images themselves."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from PIL import Image
from rich.table import Table
from rich.text import Text

from l1bn.recipes.files.writing import write_text
from l1bn.recipes.gan.distance import DISTANCE_NAME
from l1bn.recipes.gan.trainer import DISTANCE
from l1bn.recipes.report.page import REPORT, data_address, name_pairs, render
from l1bn.recipes.report.plots import draw_svg, plot_band
from l1bn.recipes.report.verdict import NAMES, detected_sentence
from l1bn.recipes.results import CURVES, RESULTS, GanResults

_LOSSES = {"critic_loss": "loss of the critic", "generator_loss": "loss of the generator"}
_SHOWN_SEEDS = 2


def write_gan_report(folder: Path) -> Path:
    """Write ``report.html`` from ``results.json``, ``curves.csv`` and the images of the runs.

    Args:
        folder: Folder of a comparison.

    Returns:
        The path of the report.
    """
    results: GanResults = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    html = render(
        "gan.html.j2",
        results=results,
        names=NAMES,
        verdict=gan_verdict(results),
        rows=_rows(results),
        plots=_plots(pd.read_csv(folder / CURVES), results),
        grids=_grids(folder, results),
        recipe=name_pairs(results["config"]),
        environment=name_pairs(results["environment"]),
    )
    path = folder / REPORT
    write_text(path, html)
    return path


def gan_table(results: GanResults) -> Table:
    """Return the table for a terminal."""
    config = results["config"]
    table = Table(title=Text(f"{config['model']} on {config['data']}, {results['steps']} steps"))
    table.add_column("")
    for name in NAMES.values():
        table.add_column(name, justify="right")
    for row in _rows(results):
        table.add_row(*map(Text, row))  # brackets are units here, no markup
    return table


def gan_verdict(results: GanResults) -> list[str]:
    """Return the sentences that sum a comparison up."""
    if "distance" not in results:
        return [
            "No --classifier was given, so no distance was measured: losses cannot tell which "
            "images are better. Look at them."
        ]
    difference, measured = results["difference"], results["distance"]
    seeds = results["summary"]["l1"]["distance"]["n"]
    text = f"L1BN − BN = {_signed(difference['mean'])} in {DISTANCE_NAME}, smaller is better"
    floor = (
        f"{measured['images']} training images have a distance of "
        f"{measured['distance_of_training_images']:.3f} to as many test images; a perfect "
        "generator would get less, as the classifier was fitted to the training images."
    )
    if seeds == 1:
        return [f"{text}; one seed cannot tell a difference from seed noise.", floor]
    text += (
        f", over {seeds} seeds; 95 % intervals {_interval(difference['paired'])} (paired), "
        f"{_interval(difference['welch'])} (Welch). "
    )
    shown = detected_sentence(difference, "BN", "L1BN")
    return [f"{text}{shown or 'No difference beyond seed noise was found.'}", floor]


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _interval(bounds: Sequence[float] | None) -> str:
    return " to ".join(map(_signed, bounds or ()))


def _rows(results: GanResults) -> list[tuple[str, ...]]:
    """Return the rows of the table: what, L1BN, BN."""
    summary = results["summary"]
    seeds = summary["l1"]["critic_loss"]["n"]

    def row(title: str, column: str, digits: int) -> tuple[str, ...]:
        values = [summary[norm][column] for norm in NAMES]
        spreads = ["" if seeds == 1 else f" ± {v['std']:.{digits}f}" for v in values]
        cells = zip(values, spreads, strict=True)
        return (title, *(f"{v['mean']:.{digits}f}{spread}" for v, spread in cells))

    measured = [row(DISTANCE_NAME, "distance", 3)] if "distance" in results else []
    return [
        ("seeds", str(seeds), str(seeds)),
        *measured,
        *(row(title, column, 3) for column, title in _LOSSES.items()),
        row("training time, runs not side by side [s]", "seconds", 0),
    ]


def _plots(curves: pd.DataFrame, results: GanResults) -> dict[str, str]:
    def losses(left: Axes, right: Axes) -> None:
        for axes, (column, title) in zip((left, right), _LOSSES.items(), strict=True):
            plot_band(axes, curves, column, by="step")
            axes.set_ylabel(title)
            axes.legend()

    def distance(axes: Axes) -> None:
        plot_band(axes, curves, DISTANCE, by="step")
        draw_floor(axes, results["distance"]["distance_of_training_images"])
        axes.set_ylabel("Fréchet distance on\nclassifier features")
        axes.set_title("mean, lowest and highest seed; smaller is better; not Inception-FID")
        axes.legend()

    drawn = {"losses": draw_svg(9, 3.4, 2, losses), "distance": ""}
    if "distance" in results:
        drawn["distance"] = draw_svg(9, 3.4, 1, distance)
    return {k: data_address(v.encode(), "svg+xml") if v else "" for k, v in drawn.items()}


def draw_floor(axes: Axes, distance: float) -> None:
    """Draw the distance of training images, which is close to 0, with room below it."""
    axes.axhline(distance, color="black", linewidth=1.2, linestyle="--", label="training images")
    axes.set_ylim(bottom=-0.04 * axes.get_ylim()[1])


def _grids(folder: Path, results: GanResults) -> list[dict[str, str]]:
    """Return real images and the last grid of the first seeds' runs; their folders hold all."""
    grids = [("training images", folder / "runs" / "l1-seed0" / "images" / "real.png")]
    for run in (r for r in results["runs"] if r["seed"] < _SHOWN_SEEDS):
        images = folder / "runs" / f"{run['norm']}-seed{run['seed']}" / "images"
        path = images / f"step-{results['steps']:06d}.png"
        grids.append((f"{NAMES[run['norm']]}, seed {run['seed']}", path))
    return [{"title": t, "address": data_address(_jpeg(p), "jpeg")} for t, p in grids]


def _jpeg(path: Path) -> bytes:
    """Return an image in fewer bytes: the run keeps every pixel, the report need not."""
    packed = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(packed, "JPEG", quality=85, subsampling=0)
    return packed.getvalue()
