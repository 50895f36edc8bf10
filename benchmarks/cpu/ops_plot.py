"""Draw the results of cpu_ops.py: L1BN + ReLU against BatchNorm + ReLU, shape by shape.

    python -m benchmarks.cpu.ops_plot [NAME]

Reads ``results/NAME.csv`` and ``results/NAME.json``, writes ``results/NAME.png``. A bar is the
ratio of the medians. Its line reaches from BatchNorm's lower quartile over L1BN's upper one to the
reverse. Of several instruction sets the best is drawn, which is the first one in the file; of
several numbers of threads the largest.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.harness import RESULTS

LAYOUTS = {"contiguous": "NCHW", "channels_last": "channels_last"}


@dataclass(frozen=True)
class Bar:
    """Speed of L1BN relative to BatchNorm on one shape: low and high from the quartiles."""

    label: str
    low: float
    ratio: float
    high: float


def bars(rows: list[dict[str, str]]) -> Iterator[Bar]:
    """One bar for each shape, with and without a residual; ``rows`` share all else."""
    for shape, residual in dict.fromkeys((r["shape"], r["residual"]) for r in rows):
        here = [r for r in rows if r["shape"] == shape and r["residual"] == residual]
        theirs = next(r for r in here if r["variant"] == "batch_norm")
        ours = next(r for r in here if r["variant"] == "l1bn")
        yield Bar(
            shape.replace("x", "×") + (" + residual" if residual == "True" else ""),
            float(theirs["both_q1"]) / float(ours["both_q3"]),
            float(theirs["both_ms"]) / float(ours["both_ms"]),
            float(theirs["both_q3"]) / float(ours["both_q1"]),
        )


def draw(name: str) -> Path:
    """Draw the results ``name``.

    Returns:
        The picture.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with (RESULTS / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    threads = max({r["threads"] for r in rows}, key=int)
    cpu = json.loads((RESULTS / f"{name}.json").read_text())["cpu"]
    figure, axes = plt.subplots(2, 2, figsize=(11, 9), sharex=True, layout="constrained")
    pairs = product(("float32", "bfloat16"), LAYOUTS)
    for axis, (dtype, layout) in zip(axes.flat, pairs, strict=True):
        wanted = {"dtype": dtype, "layout": layout, "threads": threads}
        chosen = [r for r in rows if wanted.items() <= r.items()]
        found = list(bars(chosen))[::-1]
        ratios = [b.ratio for b in found]
        spread = [[b.ratio - b.low for b in found], [b.high - b.ratio for b in found]]
        axis.barh([b.label for b in found], ratios, color="#4477aa")
        axis.errorbar(ratios, range(len(found)), xerr=spread, fmt="none", ecolor="0.2", capsize=2)
        for place, bar in enumerate(found):
            axis.text(bar.high, place, f"  {bar.ratio:.1f}×", va="center")
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(f"{dtype}, {LAYOUTS[layout]}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12, y=0.02)
    figure.suptitle(f"{cpu}, {threads} thread{'s' * (threads != '1')}; lines: quartiles")
    figure.supxlabel(
        "time of nn.BatchNorm + ReLU divided by that of L1BN + ReLU, forward + backward"
    )
    path = RESULTS / f"{name}.png"
    figure.savefig(path, dpi=100)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="cpu_ops")
    print(draw(parser.parse_args().name))
