"""The figures about GANs in docs/results: distances over the steps, and images side by side.

    python -m benchmarks.gan.figures results/2026-11-23-cifar10-dcgan runs/cifar10-dcgan

Reads ``curves.csv`` of the results and the last image grids of the runs with seed 0; writes
``distances.svg`` and ``images.jpg`` into the folder of the results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from PIL import Image, ImageDraw

from l1bn.recipes.gan.report import draw_floor
from l1bn.recipes.gan.trainer import DISTANCE
from l1bn.recipes.report.plots import draw_svg, plot_band

GAP, TITLE = 16, 24
ROWS = 4
"""Rows of eight images that are shown of each grid."""


def draw_distances(results: Path) -> None:
    """Draw the mean over the seeds, their range, and the distance of training images."""
    measured = json.loads((results / "results.json").read_text(encoding="utf-8"))["distance"]

    def draw(axes: Axes) -> None:
        plot_band(axes, pd.read_csv(results / "curves.csv"), DISTANCE, by="step")
        draw_floor(axes, measured["distance_of_training_images"])
        axes.set_ylabel("Fréchet distance on\nclassifier features")
        axes.set_title("smaller is better; mean, lowest and highest seed")
        axes.legend()

    (results / "distances.svg").write_text(draw_svg(7, 3.2, 1, draw), encoding="utf-8")


def join_grids(runs: Path, results: Path) -> None:
    """Put real images, those of L1BN and those of BN side by side."""
    folders = {title: runs / "runs" / f"{norm}-seed0" / "images" for title, norm in NORMS.items()}
    paths = {"training images": next(iter(folders.values())) / "real.png"}
    paths |= {title: max(folder.glob("step-*.png")) for title, folder in folders.items()}
    grids = {title: Image.open(path).convert("RGB") for title, path in paths.items()}
    width, height = next(iter(grids.values())).size
    height = height * ROWS // 8
    size = (len(grids) * (width + GAP) - GAP, height + TITLE)
    sheet = Image.new("RGB", size, "white")
    for place, (title, grid) in enumerate(grids.items()):
        left = place * (width + GAP)
        sheet.paste(grid.crop((0, 0, width, height)), (left, TITLE))
        ImageDraw.Draw(sheet).text((left, 2), title, fill="black", font_size=16)
    sheet.save(results / "images.jpg", quality=85, subsampling=0)


NORMS = {"L1BN, seed 0": "l1", "BN, seed 0": "l2"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of the results, written to")
    parser.add_argument("runs", type=Path, help="folder of l1bn gan-compare")
    options = parser.parse_args()
    draw_distances(options.results)
    join_grids(options.runs, options.results)


if __name__ == "__main__":
    main()
