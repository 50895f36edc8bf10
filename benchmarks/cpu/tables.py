"""Tables of the CPU kernels' and networks' speed, from the CSV files of results/."""

from __future__ import annotations

import csv
from itertools import pairwise, product

from benchmarks.harness import RESULTS, geometric_mean

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
CALLS = {
    "floor": "an autograd function in Python that does nothing",
    "F.batch_norm": "`F.batch_norm`",
    "l1_batch_norm": "`l1_batch_norm`",
    "nn.BatchNorm2d": "`nn.BatchNorm2d`",
    "L1BatchNorm2d": "`L1BatchNorm2d`",
    "block of BatchNorm2d and ReLU": "a block of `nn.BatchNorm2d` and ReLU",
    "block of L1BatchNormAct2d": "a block that calls `L1BatchNormAct2d`",
    "block, fused by convert_": "a block of norm and ReLU, fused by `convert_`",
    "block, not fused": "the same, not fused",
}
_CALL = {"forward": "forward", "forward_backward": "both"}
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


def isas(which: str) -> Table:
    """Geometric mean and worst of the same ratios, for every instruction set of one machine.

    Args:
        which: the CSV of the machine, and the threads.
    """
    name, threads = which.split()
    rows = [r for r in _read(name) if r["threads"] == threads]
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


def ladder(which: str) -> Table:
    """Times of every instruction set over those of the next lower one, all formats and shapes."""
    name, threads = which.split()
    times: dict[str, dict[tuple[str, ...], float]] = {isa: {} for isa in ISAS}
    for row in _read(name):
        if row["threads"] == threads and row["isa"]:
            key = tuple(row[k] for k in ("dtype", "shape", "layout", "residual"))
            times[row["isa"]][key] = float(row["both_ms"])
    body = []
    for (low, high), dtype in product(pairwise(ISAS), ("float32", "bfloat16")):
        found = {k: v / times[low][k] for k, v in times[high].items() if k[0] == dtype}
        if found:
            worst = max(found, key=lambda key: found[key])
            where = f"{worst[1].replace('x', '×')}, {worst[2]}"
            mean = geometric_mean(list(found.values()))
            name = f"`{high}` over `{low}`, {dtype}"
            body.append([name, f"{mean:.2f}", f"{found[worst]:.2f} ({where})"])
    return ["", "mean", "worst"], body


def calls(_: str) -> Table:
    """Processor time of a call on 16 values."""
    rows = {(row["call"], row["node"]): row for row in _read("cpu_call")}
    body = []
    for call, name in CALLS.items():
        found = [rows.get((call, node)) for node in ("compiled", "Python")]
        times = [row and f"{float(row[f'{k}_us']):.0f}" for row in found for k in _CALL]
        body.append([name, *(time or "" for time in times)])
    return ["", *(f"{k}, {v} [µs]" for k in ("compiled", "Python") for v in _CALL.values())], body


def conversion(_: str) -> Table:
    """Bytes saved for backward by models of three libraries, before and after ``convert_``."""
    body = []
    for row in _read("conversion"):
        before, plain, fused = (int(row[f"{k}_bytes"]) for k in ("bn", "l1bn", "fused"))
        sizes = (f"{size / 1e6:.1f}" for size in (before, plain, fused))
        body.append([row["model"], *sizes, f"{fused / before:.2f}"])
    return ["model", "BN [MB]", "L1BN [MB]", "fused [MB]", "ratio"], body


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


def _times(value: str) -> str:
    return f"{float(value):.2f}×"


def architectures(layout: str) -> Table:
    """Steps, memory and inference of networks nobody here wrote, L1BN against BatchNorm."""
    rows = {(r["network"], r["norm"]): r for r in _read("architectures") if r["layout"] == layout}
    body = []
    for network in dict.fromkeys(name for name, _ in rows):
        bn, l1 = rows[network, "BatchNorm"], rows[network, "L1BN"]
        kept, peak = (f"{int(l1[k]) / int(bn[k]):.2f}" for k in ("kept_bytes", "peak_bytes"))
        largest = f"{bn['largest']} → {l1['largest']}"
        folded = _times(rows[network, "L1BN, folded"]["inference_ratio"])
        speed = _times(l1["step_ratio"]), kept, peak, largest, _times(l1["inference_ratio"]), folded
        body.append([network, *speed])
    means = [
        geometric_mean([float(r[k]) for (_, norm), r in rows.items() if norm == which])
        for which, k in (
            ("L1BN", "step_ratio"), ("L1BN", "inference_ratio"), ("L1BN, folded", "inference_ratio")
        )
    ]  # fmt: skip
    step, inference, folded = (f"{m:.2f}×" for m in means)
    body.append(["geometric mean", step, "", "", "", inference, folded])
    head = ["network", "step", "saved", "peak", "images in 4 GiB", "inference", "folded"]
    return head, body


def rivals(network: str) -> Table:
    """Ways to save time or memory in one network."""
    body = []
    for row in _read("rivals"):
        if row["network"] != network:
            continue
        memory = ["", ""]
        if row["peak_bytes"]:
            memory = [f"{int(row['peak_bytes']) / 2**20:.0f}", row["largest"]]
        body.append([row["variant"], _times(row["ratio"]), *memory])
    return ["", "speed", "peak of a step [MiB]", "images in 4 GiB"], body


def compiled(threads: str) -> Table:
    """Steps of compiled networks, and bytes kept, against compiled BatchNorm."""
    rows = [r for r in _read("compiled") if r["threads"] == threads]
    base = {
        (r["network"], r["layout"]): int(r["kept_bytes"])
        for r in rows
        if (r["norm"], r["how"]) == ("BatchNorm", "compiled")
    }
    body = []
    for row in rows:
        kept = int(row["kept_bytes"]) / base[row["network"], row["layout"]]
        name = f"{row['norm']}, {row['how']}"
        body.append([row["network"], row["layout"], name, _times(row["ratio"]), f"{kept:.2f}"])
    return ["network", "layout", "", "speed", "saved"], body


def eager(threads: str) -> Table:
    """Time of the eager backend over BatchNorm's."""
    rows = [r for r in _read("eager") if r["threads"] == threads and r["variant"] == "l1bn eager"]
    body = []
    for (dtype, layout), name in FORMATS.items():
        found = [float(r["ratio"]) for r in rows if (r["dtype"], r["layout"]) == (dtype, layout)]
        if found:
            figures = geometric_mean(found), min(found), max(found)
            body.append([name, *(f"{v:.2f}" for v in figures)])
    return ["", "mean", "best", "worst"], body


def pool(threads: str) -> Table:
    """Norm + ReLU with and without the pool, against BatchNorm."""
    rows = [r for r in _read("cpu_pool") if r["threads"] == threads]
    found = {(r["shape"], r["layout"], r["variant"]): r for r in rows}
    body = []
    for shape, layout in dict.fromkeys((s, n) for s, n, _ in found):
        ratios = [_times(found[shape, layout, v]["ratio"]) for v in ("l1bn, no pool", "l1bn, pool")]
        body.append([shape.replace("x", "×"), layout, *ratios])
    return ["shape", "layout", "torch's memory", "pool"], body


TABLES = {
    "architectures": architectures,
    "rivals": rivals,
    "compiled": compiled,
    "eager": eager,
    "pool": pool,
    "operators": operators,
    "isas": isas,
    "ladder": ladder,
    "calls": calls,
    "conversion": conversion,
    "networks": networks,
    "integers": integers,
}
