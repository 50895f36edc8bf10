"""Draw docs/pictures/memory.svg from benchmarks/results/cpu_networks.csv: the README's picture.

python -m benchmarks.models.memory_figure
"""

from __future__ import annotations

import argparse
import csv
import json

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.harness import RESULTS

NETWORKS = {
    "resnet20": "ResNet-20, 128 × 32² pixels",
    "resnet18": "ResNet-18, 32 × 32² pixels",
    "resnet50": "ResNet-50, 4 × 128² pixels",
}
COLORS = {"BatchNorm": "#8a8f98", "L1BN": "#d1603d"}
PICTURE = RESULTS.parents[1] / "docs" / "pictures" / "memory.svg"


def kept() -> dict[tuple[str, str], float]:
    """Return saved activation memory of one step [MiB], by network and norm."""
    with (RESULTS / "cpu_networks.csv").open(newline="") as file:
        return {
            (row["network"], row["norm"]): int(row["kept_bytes"]) / 2**20
            for row in csv.DictReader(file)
        }


def main() -> None:
    mpl.rcParams.update({"svg.hashsalt": "l1bn", "font.size": 11, "svg.fonttype": "path"})
    sizes = kept()
    figure, axes = plt.subplots(figsize=(8, 2.9), layout="constrained")
    for row, network in enumerate(reversed(NETWORKS)):
        reference = sizes[network, "BatchNorm"]
        for place, norm in enumerate(COLORS):
            size = sizes[network, norm]
            y = row + 0.19 - 0.38 * place
            axes.barh(y, size, 0.34, color=COLORS[norm], label=norm if row == 0 else None)
            ratio = "" if norm == "BatchNorm" else f"  ({size / reference:.2f})"
            axes.text(size + 2, y, f"{size:.0f} MiB{ratio}", va="center")
    axes.set_yticks(range(len(NETWORKS)), list(reversed(NETWORKS.values())))
    axes.set_xlim(0, 1.2 * max(sizes.values()))
    axes.set_xlabel("saved activation memory of a training step, float32 [MiB]")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    torch = json.loads((RESULTS / "cpu_networks.json").read_text())["torch"]
    figure.savefig(PICTURE, metadata={"Date": None, "Description": f"torch {torch}"})


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # none, but --help
    main()
