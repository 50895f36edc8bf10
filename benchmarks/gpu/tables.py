"""Tables of the GPU kernels, from committed CSV files."""

from __future__ import annotations

import csv
import math
from pathlib import Path

ROOT = Path(__file__).parents[2]
Table = tuple[list[str], list[list[str]]]
_LAYOUTS = {"contiguous": "NCHW", "channels_last": "channels_last"}


def predictions() -> list[dict[str, str]]:
    """What `predicted.py` wrote last."""
    newest = sorted((ROOT / "results").glob("????-??-??-gpu-predicted"))[-1]
    with (newest / "predicted.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def predicted() -> Table:
    """Bytes and predicted times, layer by layer, and the geometric means."""
    rows = predictions()
    variants = [
        name for name in dict.fromkeys(row["variant"] for row in rows) if name != "BN eager"
    ]
    layers: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("shape", "dtype", "layout", "residual"))
        layers.setdefault(key, {})[row["variant"]] = row
    body = []
    for (shape, dtype, layout, residual), found in layers.items():
        name = f"{shape.replace('x', '×')}, {dtype}, {_LAYOUTS[layout]}"
        name += ", add" if residual == "True" else ""
        moved = [f"{int(found[v]['bytes']) / 1e6:.0f}" for v in ("BN eager", "L1BN")]
        body.append([name, *moved, *(f"{float(found[v]['times_bn']):.2f}×" for v in variants)])
    means = []
    for name in variants:
        logs = [math.log(float(found[name]["times_bn"])) for found in layers.values()]
        means.append(f"{math.exp(sum(logs) / len(logs)):.2f}×")
    body.append(["geometric mean", "", "", *means])
    return ["layer", "BN eager [MB]", "L1BN [MB]", *variants], body


TABLES = {"predicted": predicted}
