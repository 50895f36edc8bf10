"""The plots of a comparison, as SVG text."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from l1bn.recipes.names import NormName
from l1bn.recipes.report.verdict import NAMES
from l1bn.recipes.results import CompareResults, RunRow

# Okabe and Ito: told apart by colour-blind readers.
COLOURS: dict[NormName, str] = {"l1": "#0072B2", "l2": "#D55E00"}
_MARKERS: dict[NormName, str] = {"l1": "o", "l2": "s"}
_GREY = "#555555"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "svg.fonttype": "path",
    "svg.hashsalt": "l1bn",
    "legend.frameon": False,
}
_GAUSSIAN = math.sqrt(math.pi / 2)
_OTHERS = {"uniform": 2 / math.sqrt(3), "Laplace": math.sqrt(2)}


def draw_svg(
    width: float, height: float, columns: int, draw: Callable[..., None], rows: int = 1
) -> str:
    """Return a figure as SVG, row by row; the same input gives the same text."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        draw(*axes.flat)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def plot_band(
    axes: Axes, curves: pd.DataFrame, column: str, scale: float = 1.0, by: str = "epoch"
) -> None:
    """Draw the mean over the seeds and their range, lowest to highest, by epoch or by step."""
    for norm, name in NAMES.items():
        groups = curves[curves["norm"] == norm].groupby(by)[column]
        mean, low, high = scale * groups.mean(), scale * groups.min(), scale * groups.max()
        marker = _MARKERS[norm] if len(mean) <= 30 else None
        axes.plot(mean.index, mean, label=name, color=COLOURS[norm], marker=marker, markersize=4)
        axes.fill_between(mean.index, low, high, color=COLOURS[norm], alpha=0.15, linewidth=0)
    axes.set_xlabel(by)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def plot_loss(curves: pd.DataFrame) -> str:
    """Return training and test loss by epoch.

    Args:
        curves: The content of ``curves.csv``.
    """

    def draw(left: Axes, right: Axes) -> None:
        for axes, split in ((left, "train"), (right, "test")):
            plot_band(axes, curves, f"{split}_loss")
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_ylabel("cross-entropy [nat]")
            axes.set_title("training images" if split == "train" else "test images")
            axes.legend()

    return draw_svg(9, 3.4, 2, draw)


def plot_accuracy(curves: pd.DataFrame, results: CompareResults) -> str:
    """Return the test accuracy by epoch, and the final one of every seed."""

    def draw(left: Axes, right: Axes) -> None:
        plot_band(left, curves, "test_accuracy", 100.0)
        left.set_ylabel("test accuracy [%]")
        left.set_title("mean, lowest and highest seed")
        left.legend(loc="lower right")
        _final_by_seed(right, results)

    return draw_svg(9, 3.4, 2, draw)


def _final_by_seed(axes: Axes, results: CompareResults) -> None:
    """Draw one point per run; runs of one seed share first weights and batches."""
    runs = results["runs"]
    seeds = sorted({r["seed"] for r in runs})
    for norm, name in NAMES.items():
        values = [100 * r["test_accuracy"] for s in seeds for r in runs if _is(r, norm, s)]
        shift = -0.08 if norm == "l1" else 0.08
        axes.plot(
            np.arange(len(seeds)) + shift,
            values,
            linestyle="none",
            marker=_MARKERS[norm],
            color=COLOURS[norm],
            label=name,
        )
        axes.axhline(float(np.mean(values)), color=COLOURS[norm], linewidth=1, linestyle=":")
    axes.set_xticks(range(len(seeds)), [str(s) for s in seeds])
    axes.set_xlim(-0.5, len(seeds) - 0.5)
    axes.margins(y=0.25)
    axes.set_xlabel("seed")
    axes.set_ylabel("final test accuracy [%]")
    axes.set_title("after the last epoch (dotted: mean)")
    axes.legend()


def _is(run: RunRow, norm: NormName, seed: int) -> bool:
    return run["norm"] == norm and run["seed"] == seed


def plot_ratios(results: CompareResults) -> str:
    """Return the distribution over channels of standard / mean absolute deviation, by layer."""
    by_norm = {norm: _merge_seeds(results, norm) for norm in NAMES}
    layers = list(by_norm["l1"])

    def draw(axes: Axes) -> None:
        for norm in NAMES:
            shift = -0.19 if norm == "l1" else 0.19
            boxes = axes.boxplot(
                [by_norm[norm][layer] for layer in layers],
                positions=[i + shift for i in range(len(layers))],
                widths=0.32,
                whis=(5, 95),
                showfliers=False,
                patch_artist=True,
                manage_ticks=False,
                medianprops={"color": "black"},
            )
            for box in boxes["boxes"]:
                box.set(facecolor=COLOURS[norm], alpha=0.7)
        axes.axhline(_GAUSSIAN, color="black", linewidth=1)
        lines = {"Gaussian": _GAUSSIAN, **_OTHERS}
        for name, value in lines.items():
            if name != "Gaussian":
                axes.axhline(value, color=_GREY, linewidth=0.8, linestyle=":")
            text = f" {name} {value:.4f}"
            axes.annotate(text, (1, value), xycoords=("axes fraction", "data"), va="center")
        axes.set_xticks(range(len(layers)), layers, rotation=60, ha="right")
        axes.set_xlim(-0.6, len(layers) - 0.4)
        axes.set_ylabel("standard deviation /\nmean absolute deviation")
        axes.set_xlabel("normalization layer, from input to output")
        handles = [
            Patch(color=COLOURS[n], alpha=0.7, label=f"trained with {NAMES[n]}") for n in NAMES
        ]
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        axes.margins(y=0.05)

    return draw_svg(9, 4.0, 1, draw)


def _merge_seeds(results: CompareResults, norm: NormName) -> dict[str, list[float]]:
    """Return the ratios of all seeds by layer."""
    merged: dict[str, list[float]] = {}
    for run, layers in results["deviation_ratios"].items():
        if run.startswith(norm):
            for layer, values in layers.items():
                merged.setdefault(layer, []).extend(values)
    return merged


def plot_costs(results: CompareResults) -> str:
    """Return time of a training step and saved activation memory."""
    step, saved = results["step"], results["saved_bytes"]
    names = list(NAMES.values())
    colours = [COLOURS[n] for n in NAMES]

    def draw(left: Axes, right: Axes) -> None:
        quartiles = [(v["q25"], v["median"], v["q75"]) for v in (step[n] for n in NAMES)]
        times = 1e3 * np.array(quartiles)
        spread = np.stack([times[:, 1] - times[:, 0], times[:, 2] - times[:, 1]])
        left.barh(names, times[:, 1], xerr=spread, color=colours, alpha=0.85, capsize=4)
        left.set_xlabel(f"time of a training step of {step['batch_size']} images [ms]")
        left.set_title(f"median and quartiles of {step['rounds']} interleaved rounds")
        bars = right.barh(names, [saved[n] / 2**20 for n in NAMES], color=colours, alpha=0.85)
        right.bar_label(bars, fmt="%.1f", padding=3)
        right.margins(x=0.15)
        right.set_xlabel("one batch [MiB]")
        right.set_title("saved activation memory")
        for axes in (left, right):
            axes.grid(False, axis="y")
            axes.invert_yaxis()

    return draw_svg(9, 2.2, 2, draw)
