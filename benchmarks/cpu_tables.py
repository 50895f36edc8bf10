"""Tables of the CPU kernels' and networks' speed, from the CSV files of results/."""

from __future__ import annotations

import csv
from itertools import product

from harness import RESULTS, geometric_mean

Row = dict[str, str]
Table = tuple[list[str], list[list[str]]]
NETWORKS = {
    "resnet20": "ResNet-20",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50 (`convert_`)",
}
FORMATS = {
    ("float32", "contiguous"): "float32, NCHW",
    ("float32", "channels_last"): "float32, channels_last",
    ("bfloat16", "contiguous"): "bfloat16, NCHW",
    ("bfloat16", "channels_last"): "bfloat16, channels_last",
}
ISAS = ("baseline", "avx2", "avx512", "avx512bf16")
INTEGERS = {"resnet20": "ResNet-20", "vgg7": "VGG7 at a quarter of its width"}
OVER_CACHE = 32 << 20
"""Size of a tensor that the last-level cache of the machine cannot hold [bytes]."""


def _read(name: str) -> list[Row]:
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _bytes(row: Row) -> int:
    size = 4 if row["dtype"] == "float32" else 2
    for part in row["shape"].split("x"):
        size *= int(part)
    return size


def operators(threads: str) -> Table:
    """Times of BN + ReLU over those of L1BN + ReLU, forward and backward."""
    rows = [r for r in _read("cpu_ops") if r["threads"] == threads]
    body = []
    for (dtype, layout), name in FORMATS.items():
        chosen = [r for r in rows if (r["dtype"], r["layout"]) == (dtype, layout)]
        native = [r for r in chosen if r["variant"] == "l1bn"]
        best = native[0].get("isa")  # the first is what runs where nobody forces another
        ours = {(r["shape"], r["residual"]): r for r in native if r.get("isa") == best}
        in_place, new = (_ratios(chosen, ours, v) for v in ("batch_norm", "batch_norm new"))
        plain = [v for (_, residual), v in in_place.items() if residual == "False"]
        large = [
            float(r["both_ms"]) / (float(r["floor_forward_ms"]) + float(r["floor_backward_ms"]))
            for r in ours.values()
            if _bytes(r) > OVER_CACHE
        ]
        means = (plain, list(in_place.values()), list(new.values()))
        figures = (*map(geometric_mean, means), min(in_place.values()), max(in_place.values()))
        floor = f"{geometric_mean(large):.1f}×"
        body.append([name, *(f"{f:.2f}×" for f in figures), floor])
    head = ["", "no residual", "all shapes", "all, BN not in place", "worst", "best", "floor"]
    return head, body


def _ratios(
    rows: list[Row], ours: dict[tuple[str, str], Row], against: str
) -> dict[tuple[str, str], float]:
    return {
        key: float(r["both_ms"]) / float(ours[key]["both_ms"])
        for r in rows
        if r["variant"] == against
        for key in [(r["shape"], r["residual"])]
    }


def isas(threads: str) -> Table:
    """Geometric mean and worst of the same ratios, for every instruction set of one machine."""
    rows = [r for r in _read("cpu_ops_xeon") if r["threads"] == threads]
    timed = {r["isa"] for r in rows}
    names = [name for name in ISAS if name in timed]
    body = []
    for (dtype, layout), name in FORMATS.items():
        chosen = [r for r in rows if (r["dtype"], r["layout"]) == (dtype, layout)]
        body.append([name])
        for isa in names:
            ours = {(r["shape"], r["residual"]): r for r in chosen if r["isa"] == isa}
            found = _ratios(chosen, ours, "batch_norm").values() if ours else ()
            body[-1].append(
                f"{geometric_mean(list(found)):.2f}×, {min(found):.2f}×" if found else "–"
            )
    return ["", *(f"`{name}`: mean, worst" for name in names)], body


def networks(_: str) -> Table:
    """Training steps, and bytes saved activation memory, against BN."""
    rows = {(r["network"], r["norm"], r["threads"]): r for r in _read("cpu_networks")}
    body = []
    for name, threads in product(NETWORKS, ("1", "2")):
        ours, theirs = rows[name, "L1BN", threads], rows[name, "BatchNorm", threads]
        speed = float(theirs["step_ms"]) / float(ours["step_ms"])
        kept = int(ours["kept_bytes"]) / int(theirs["kept_bytes"])
        images = f"{ours['batch']}×3×{ours['pixels']}×{ours['pixels']}"
        body.append([NETWORKS[name], images, threads, f"{speed:.2f}× as fast", f"{kept:.2f}"])
    return ["", "images", "threads", "step", "saved activation memory"], body


def integers(_: str) -> Table:
    """Training steps in integers against float32, and bytes saved activation memory."""
    rows = _read("integer_steps")
    times: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        times.setdefault((INTEGERS[row["network"]], row["threads"]), []).append(row)
    body = [
        [
            f"{name}, {threads} thread{'s' * (threads != '1')} [ms]",
            *(f"{float(r['step_ms']):.0f}" for r in found),
            f"{float(found[-1]['speedup_over_bn']):.1f}×",
        ]
        for (name, threads), found in times.items()
    ]
    for (name, threads), found in times.items():
        if threads == "1":
            kept = [f"{float(r['kept_mib']):.1f}" for r in found]
            ratio = f"{float(found[-1]['kept_over_bn']):.2f}"
            body.append([f"saved activation memory, {name} [MiB]", *kept, ratio])
    return ["", *(r["variant"] for r in rows[:3]), "int8 over BN"], body


TABLES = {"operators": operators, "isas": isas, "networks": networks, "integers": integers}
