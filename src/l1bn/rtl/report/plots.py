"""Plots of a report: time against energy, and energy by pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l1bn.rtl.report.comparison import PartRatio
from l1bn.rtl.report.records import UnitRecord
from l1bn.rtl.variants import VARIANTS

#: What each plot shows.
CAPTIONS = {
    "frontier.svg": "Forward and backward of one element: left and down is better. Filled marks: "
    "channels overlap.",
    "passes.svg": "Where the energy goes, by pass over the data. Overlapped, the statistics are in "
    "the pass that they run beside.",
    "parts.svg": "The parts alone: what L2 needs, in multiples of L1.",
}

_COLOURS = {"l1": "#1f77b4", "l2": "#d95f02"}
#: Filled where channels overlap, open where they do not.
_MARKS = {
    "l1": "o", "l1-one-pass": "s", "l1-pow2": "^", "l1-one-pass-pow2": "v",
    "l2": "o", "l2-one-pass": "s", "l2-two-mult": "D", "l2-one-pass-two-mult": "P",
    "l1-overlap": "o", "l1-overlap-two-mult": "P", "l2-overlap": "o", "l2-overlap-squarer": "X",
    "l2-overlap-two-mult": "P",
}  # fmt: skip
_PASSES = (
    ("STATISTICS", "sums", "#4c78a8"),
    ("DEVIATION", "deviation", "#72b7b2"),
    ("NORMALIZE", "normalize", "#54a24b"),
    ("REDUCE", "reduce", "#eeca3b"),
    ("GRADIENT", "gradient", "#e45756"),
    ("SCALARS", "scalars", "#b0b0b0"),
)


def write(
    records: Sequence[UnitRecord], parts: Sequence[PartRatio], stimulus: str, folder: Path
) -> list[Path]:
    """Draw the plots as SVG; return their paths. ``parts`` are comparisons of parts."""
    groups: dict[tuple[str, int], list[UnitRecord]] = {}
    for record in records:
        groups.setdefault((record.library, record.config.width), []).append(record)
    with plt.rc_context({"svg.fonttype": "path", "svg.hashsalt": "l1bn", "font.size": 10}):
        drawn = [
            _frontier(groups, stimulus, folder / "frontier.svg"),
            _bars(groups, stimulus, folder / "passes.svg"),
        ]
        return [*drawn, _ratios(parts, folder / "parts.svg")] if parts else drawn


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.6 * columns, height * rows), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    flat = list(axes.flat)
    for axis in flat[count:]:
        axis.set_axis_off()
    return figure, flat


def _title(library: str, width: int) -> str:
    return f"{library.split('_')[0]}, {width} bit"


def _frontier(groups: dict[tuple[str, int], list[UnitRecord]], stimulus: str, path: Path) -> Path:
    figure, axes = _panels(len(groups), 3.6)
    labels = {v.key: v.label for v in VARIANTS}
    for axis, ((library, width), rows) in zip(axes, groups.items(), strict=False):
        for row in rows:
            now = row.stimuli[stimulus]
            colour = _COLOURS[row.config.norm]
            axis.scatter(
                now.time_per_element, now.energy_per_element, s=55, zorder=3,
                edgecolors=colour, facecolors=colour if row.config.overlap else "none",
                marker=_MARKS[row.variant], label=labels[row.variant],
            )  # fmt: skip
        axis.set_title(_title(library, width), fontsize=10)
        axis.set_xlabel("time per element [ns]")
        axis.set_ylabel("energy per element [pJ]")
        axis.set_xlim(0, 1.08 * axis.get_xlim()[1])
        axis.set_ylim(0, 1.08 * axis.get_ylim()[1])
        axis.grid(alpha=0.3)
    handles, names = axes[0].get_legend_handles_labels()
    columns = 4 if len(groups) > 2 else 2
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _bars(groups: dict[tuple[str, int], list[UnitRecord]], stimulus: str, path: Path) -> Path:
    figure, axes = _panels(len(groups), 3.4)
    labels = {v.key: v.label for v in VARIANTS}
    for axis, ((library, width), rows) in zip(axes, groups.items(), strict=False):
        names = [labels[r.variant] for r in rows]
        left = [0.0] * len(rows)
        for phase, label, colour in _PASSES:
            values = [r.stimuli[stimulus].by_phase.get(phase, 0.0) for r in rows]
            axis.barh(names, values, left=left, color=colour, label=label)
            left = [a + b for a, b in zip(left, values, strict=True)]
        axis.invert_yaxis()
        axis.set_title(_title(library, width), fontsize=10)
        axis.set_xlabel("energy per element [pJ]")
        axis.tick_params(axis="y", labelsize=8)
    handles, names = axes[0].get_legend_handles_labels()
    columns = 6 if len(groups) > 1 else 3
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _ratios(parts: Sequence[PartRatio], path: Path) -> Path:
    """Area, time and energy of each part, L2 over L1, by library and width."""
    names = list(dict.fromkeys(p.part for p in parts))
    groups = list(dict.fromkeys((p.library, p.width) for p in parts))
    figure, axes = _panels(3, 3.2)
    for axis, (key, title) in zip(
        axes, (("area", "area"), ("speed", "time per element"), ("energy", "energy per element")),
        strict=True,
    ):  # fmt: skip
        for number, (library, width) in enumerate(groups):
            rows = {p.part: p for p in parts if (p.library, p.width) == (library, width)}
            at = [
                i + (number - (len(groups) - 1) / 2) * 0.8 / len(groups) for i in range(len(names))
            ]
            axis.bar(
                at, [getattr(rows[n], key) for n in names], 0.75 / len(groups),
                label=_title(library, width), color=plt.get_cmap("viridis")(number / len(groups)),
            )  # fmt: skip
        axis.axhline(1, color="black", lw=0.8)
        axis.set_xticks(range(len(names)), names)
        axis.set_title(f"{title}, L2 / L1", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(6, len(groups)), fontsize=8
    )
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path
