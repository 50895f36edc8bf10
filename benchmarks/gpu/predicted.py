"""Predict, without a GPU, how long norm + ReLU takes on an H100, from the bytes that it moves.

    python benchmarks/gpu/predicted.py --out results/FOLDER

Nothing here is measured but one number, the bandwidth of a plain copy. Bytes of L1BN are those of
the launches that `l1bn.ops.triton` makes (`traffic.py`, held to the interpreter's count by a test).
Bytes of its rivals are their passes over tensors, by the same count: what a cache saves is left out
for all of them. A launch costs what the device needs from one kernel to the next.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.gpu.scale import FULL
from benchmarks.gpu.traffic import Case, bytes_of, launches_of

#: A plain copy on an H100: bytes read and written in a second.
BANDWIDTH = 3.0e12
#: From the end of one kernel to the start of the next [s].
LAUNCH = 3e-6


class Rival(NamedTuple):
    """A way to compute BatchNorm (+ addition) + ReLU, forward and backward.

    Attributes:
        passes: tensors of the input's size that are read or written.
        launches: kernels.
        added: more passes with a residual.
        more: more kernels with a residual.
    """

    passes: int
    launches: int
    added: int
    more: int


RIVALS = {
    # Forward: statistics 1, normalize 2, ReLU 2 (addition 3). Backward: ReLU 3, sums 2, dx 3.
    "BN eager": Rival(1 + 2 + 2 + 3 + 2 + 3, 4 + 3, 3, 1),
    # cuDNN's kernels that hold a channel's values on the chip, at best: 2 and 3; ReLU as above.
    "BN eager, on chip": Rival(2 + 2 + 3 + 3, 2 + 2, 3, 1),
    # Inductor fuses ReLU and the addition into both passes, and reads ReLU's output for its mask.
    "BN compiled": Rival(1 + 2 + 3 + 4, 2 + 2, 1 + 1, 0),
}


def predicted(total: int, launches: int) -> float:
    """Seconds."""
    return total / BANDWIDTH + launches * LAUNCH


def rows() -> Iterator[dict[str, Any]]:
    """Every variant of every shape that the benchmark measures."""
    for shape, dtype, last, residual in FULL.operators:
        case = Case(shape, getattr(torch, dtype), last, "relu", residual)
        size = math.prod(shape) * case.dtype.itemsize
        ours = list(itertools.chain(*launches_of(case, keep_x=False)))
        found = {
            name: (
                size * (rival.passes + residual * rival.added),
                rival.launches + residual * rival.more,
            )
            for name, rival in RIVALS.items()
        }
        # Two more clear a counter or the largest r, and send that to the host.
        found["L1BN"] = sum(bytes_of(one) for one in ours), len(ours) + 2
        base = predicted(*found["BN eager"])
        for name, (total, launches) in found.items():
            seconds = predicted(total, launches)
            yield {
                "shape": "x".join(map(str, shape)), "dtype": dtype,
                "layout": "channels_last" if last else "contiguous", "residual": residual,
                "variant": name, "bytes": total, "launches": launches,
                "predicted_us": round(seconds * 1e6, 1), "times_bn": round(base / seconds, 2),
            }  # fmt: skip


def main() -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for predicted.csv")
    options = parser.parse_args()
    found = list(rows())
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "predicted.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    for name in (*RIVALS, "L1BN"):
        ratios = [math.log(row["times_bn"]) for row in found if row["variant"] == name]
        print(f"{name}: {math.exp(sum(ratios) / len(ratios)):.2f} times BN eager, predicted")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
