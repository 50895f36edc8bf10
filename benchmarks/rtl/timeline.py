"""Draw docs/pictures/overlap.svg: which resource works on which channel, from simulations.

python -m benchmarks.rtl.timeline
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch

from benchmarks.rtl.pictures import FOLDER
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.drawings.trace import read_vcd
from l1bn.rtl.unit.ports import Operation, Phase
from l1bn.rtl.verify.schedule import Step
from l1bn.rtl.verify.simulate import simulate, steps
from l1bn.rtl.verify.stimulus import expected, gaussian

CHANNELS, ELEMENTS = 3, 256
UNITS = (
    ("L1, one channel at a time", UnitConfig(width=8, elements=ELEMENTS)),
    ("L1, overlapped, one multiplier", UnitConfig(width=8, elements=ELEMENTS, overlap=True)),
    (
        "L1, overlapped, two multipliers",
        UnitConfig(width=8, elements=ELEMENTS, overlap=True, multipliers=2),
    ),
    ("L2, overlapped, one multiplier", UnitConfig("l2", 8, ELEMENTS, overlap=True)),
    (
        "L2, overlapped, two multipliers, one pass",
        UnitConfig("l2", 8, ELEMENTS, multipliers=2, passes=1, overlap=True),
    ),
)
ROWS = ("sums", "deviation", "multiplier", "multiplier 2", "scalars")
COLOURS = ("#4c78a8", "#f58518", "#54a24b")


@dataclass(frozen=True)
class Bar:
    """A stretch of clocks in which a row works on a channel."""

    row: str
    channel: int
    start: int
    end: int
    text: str


def bars(config: UnitConfig) -> tuple[list[Bar], int]:
    """What every row does in the steady state of a layer, and its clocks."""
    channels = gaussian(config, CHANNELS, seed=1)
    with tempfile.TemporaryDirectory() as name:
        trace = Path(name) / "trace.vcd"
        run = simulate(config, channels, order="steady", trace=trace)
        changes = read_vcd(trace)
    rises = sorted({t for t, v in changes["clk"] if v == "1"})
    period = rises[1] - rises[0]
    phases = sorted(dict(changes["phase"]).items())
    order = steps(config, channels, list(expected(config, channels)), "steady")
    found: list[Bar] = []
    clock = counted = 0
    for step, length in zip(order, run.steps, strict=True):
        if step.counted:
            inside = [
                (t / period - clock, v) for t, v in phases if clock <= t / period < clock + length
            ]
            edges = [(0.0, "SCALARS"), *inside, (float(length), "")]
            for (left, value), (right, _) in itertools.pairwise(edges):
                if right - left > 2:
                    phase = Phase[value.split("/")[0]]
                    start, stop = round(counted + left), round(counted + right)
                    found += [
                        Bar(row, channel % CHANNELS, start, stop, text)
                        for row, channel, text in work(config, step, phase)
                    ]
            counted += length
        clock += length
    return found, counted


def work(config: UnitConfig, step: Step, phase: Phase) -> list[tuple[str, int, str]]:
    """Rows at work in a phase of a step: row, channel and what it does."""
    two, l1 = config.multipliers == 2, config.norm == "l1"
    if phase is Phase.SCALARS:
        return [("scalars", step.channel, "")]
    if phase is Phase.STATISTICS:
        return [("sums", step.channel, "sums")]
    if phase is Phase.DEVIATION:
        beside = [("sums", step.channel + 1, "sums")] if config.overlap else []
        row = "deviation" if l1 else "multiplier"
        return [(row, step.channel, "deviation"), *beside]
    if phase is Phase.NORMALIZE:
        own = [("multiplier", step.emits, "normalize")]
        if not config.overlap or (not l1 and not two):
            return own
        if l1:
            ahead = [("deviation", step.channel, "deviation"), ("sums", step.channel + 1, "sums")]
            return own + ahead
        return [*own, ("multiplier 2", step.channel, "squares"), ("sums", step.channel, "sums")]
    if phase is Phase.REDUCE:
        return [("multiplier", step.channel, "reduce")]
    own = [("multiplier", step.emits, "gradient")]
    if config.overlaps_gradient and step.operation is Operation.BACKWARD:
        own.append(("multiplier 2", step.channel, "reduce"))
    elif two:
        own.append(("multiplier 2", step.emits, "gradient"))
    return own


def main() -> None:
    """Simulate and draw."""
    drawn = [(title, *bars(config)) for title, config in UNITS]
    used = [[r for r in ROWS if any(b.row == r for b in found)] for _, found, _ in drawn]
    figure, axes = plt.subplots(
        len(drawn), 1, figsize=(10, 9.5), sharex=True, layout="constrained",
        height_ratios=[len(rows) for rows in used],
    )  # fmt: skip
    for axis, (title, found, end), rows in zip(axes, drawn, used, strict=True):
        for bar in found:
            y = rows.index(bar.row)
            axis.barh(
                y, bar.end - bar.start, left=bar.start, height=0.85, edgecolor="white", lw=1,
                color=COLOURS[bar.channel], alpha=0.55 if bar.row == "scalars" else 0.95,
            )  # fmt: skip
            if bar.end - bar.start > 200:
                axis.text((bar.start + bar.end) / 2, y, bar.text, ha="center", va="center",
                          fontsize=7, color="white")  # fmt: skip
        axis.set_yticks(range(len(rows)), rows, fontsize=9)
        axis.invert_yaxis()
        per = end / CHANNELS / ELEMENTS
        axis.set_title(f"{title}: about {per:.1f} clocks per element", fontsize=10, loc="left")
        axis.axvline(end, color="black", lw=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(f"clocks; {CHANNELS} channels of {ELEMENTS} elements, forward and backward")
    handles = [Patch(color=c, label=f"channel {i}") for i, c in enumerate(COLOURS)]
    axes[0].legend(handles=handles, loc="upper right", fontsize=9, ncols=CHANNELS,
                   bbox_to_anchor=(1, 1.35))  # fmt: skip
    with plt.rc_context({"svg.hashsalt": "l1bn", "svg.fonttype": "path"}):
        figure.savefig(FOLDER / "overlap.svg", metadata={"Date": None})
    figure.savefig(Path(tempfile.gettempdir()) / "overlap.png", dpi=90)
    print(f"wrote {FOLDER}/overlap.svg")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # none, but --help
    main()
