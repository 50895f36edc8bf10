"""Writes the tables of docs/ from results/, so that no figure is copied by hand.

    python -m benchmarks.results_tables            # fill in
    python -m benchmarks.results_tables --check    # fail where a table is not what results/ say

A table stands between two comments, of one of these kinds:

    <!-- claim NAME NAME ... -->   L1BN against BN, one plan or comparison of GANs a row
    <!-- table NAME -->            the arms of one plan, with differences from the reference
    <!-- rows NAME NAME ... -->    one plan a row, one arm a column, and L1BN less BN
    <!-- grid NAME -->             arms called A-B: A the column, B the row, and L1BN less BN
    <!-- gan NAME NAME -->         distances of GANs, one comparison a row
    <!-- first NAME -->            the figures of `first_steps.py`
    <!-- layers NAME -->           the summary of `layer_analysis.py`
    <!-- rtl KIND STIMULUS -->     a table of `rtl/tables.py`
    <!-- cpu KIND WHICH -->        a table of `cpu/tables.py`
    <!-- device KIND -->           a table of `device/tables.py`
    <!-- integers KIND -->         a table of `integers/tables.py`
    <!-- end -->

NAME is a plan of `accuracy/plans.py`; the newest folder of results/ that ends in it counts.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from pathlib import Path
from statistics import mean

from benchmarks.accuracy.plans import LABELS, PLANS
from benchmarks.cpu.tables import TABLES as CPU_TABLES
from benchmarks.device.tables import TABLES as DEVICE_TABLES
from benchmarks.gpu.tables import TABLES as GPU_TABLES
from benchmarks.integers.tables import TABLES as INTEGER_TABLES
from benchmarks.rtl.tables import TABLES as RTL_TABLES
from l1bn.recipes.statistics import Difference, compare_paired, summarize

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/use/compile.md",
    "docs/use/convert.md",
    "docs/use/gpu.md",
    "docs/use/layers.md",
    "docs/notes/calls.md",
    "docs/compared/index.md",
    "docs/notes/cpu_kernels.md",
    "docs/integers/on_a_device.md",
    "docs/integers/training.md",
    "docs/silicon/unit.md",
    "docs/results/accuracy.md",
    "docs/results/architectures.md",
    "docs/results/speed.md",
)
BLOCK = re.compile(
    r"(<!-- (claim|table|rows|grid|gan|first|layers|rtl|cpu|device|gpu|integers) ([\w -]+?) -->\n)"
    r".*?(<!-- end -->)",
    re.S,
)
PRETRAINED = {
    "converted/first-l2": "ResNet-8, 4 epochs",
    "sensitivity/l2-relu-first": "ResNet-8, ReLU before the norm, 4 epochs",
    "integer-resnet20/l2": "ResNet-20, 12 epochs",
}
GAP = "L1BN − BN (95 %)"
Row = dict[str, str]


def folder(name: str) -> Path:
    """Return the newest results of a plan.

    Raises:
        SystemExit: If there are none.
    """
    found = sorted(p for p in (ROOT / "results").glob(f"????-??-??-{name}") if p.is_dir())
    if not found:
        raise SystemExit(f"results/ has nothing of {name}: run accuracy.py {name} first")
    return found[-1]


def read(name: str) -> dict[str, Row]:
    """Return the rows of a plan's table, by arm."""
    with (folder(name) / "table.csv").open(newline="") as file:
        return {row["arm"]: row for row in csv.DictReader(file)}


def link(name: str) -> str:
    return f"[results](/results/{folder(name).name}/results.json)"


def accuracy(row: Row | None) -> str:
    if row is None:
        return ""
    mean = f"{float(row['accuracy']):.2f}"
    return mean if not row["std"] else f"{mean} ± {float(row['std']):.2f}"


def away(row: Row | None) -> str:
    """The difference from the reference, with its interval."""
    if row is None or not row.get("difference"):
        return ""
    return f"{float(row['difference']):+.2f} ({row['welch_95']})".replace("-", "−")


def markdown(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(cells).replace("|  |", "| |") + " |\n" for cells in lines)


def table(name: str) -> str:
    """Arms as rows."""
    body = []
    for arm, row in read(name).items():
        loss = f"{float(row['train_loss']):.3f}"
        body.append([LABELS[arm], row["n"], accuracy(row), away(row), loss])
    if PLANS[name].against:
        raise SystemExit(f"{name} compares pairs of arms: make a grid of it")
    first = LABELS[next(iter(read(name)))]
    head = ["", "seeds", "test accuracy [%]", f"minus {first} (95 %)", "training loss"]
    return markdown(head, body)


def rows(names: str) -> str:
    """Plans as rows, arms as columns."""
    plans = names.split()
    arms = list(PLANS[plans[0]].arms)
    body = []
    for name in plans:
        found = read(name)
        seeds = "/".join(sorted({r["n"] for r in found.values()}))
        cells = [accuracy(found.get(arm)) for arm in arms]
        cells.append(interval(compare_paired(*by_norm(name))))
        body.append([f"{LABELS[name]} ({link(name)})", seeds, *cells])
    labels = [PLANS[plans[0]].label(a) for a in arms]
    return markdown(["test accuracy [%]", "seeds", *labels, GAP], body)


def by_norm(name: str) -> list[list[float]]:
    """Return what L1BN's and BN's runs ended with, by seed: accuracies [%], or distances."""
    runs = json.loads((folder(name) / "results.json").read_text())["runs"]
    if "distance" in runs[0]:
        return [[r["distance"] for r in runs if r["norm"] == norm] for norm in ("l1", "l2")]
    found = [{r["seed"]: r["test_accuracy"] for r in runs if r["arm"] == n} for n in ("l1", "l2")]
    return [
        [100 * runs[seed] for seed in sorted(found[0].keys() & found[1].keys())] for runs in found
    ]


def interval(difference: Difference) -> str:
    """A difference with Welch's interval."""
    return _signed(difference.mean, difference.welch)


def _signed(mean: float, bounds: tuple[float, float] | None) -> str:
    text = f"{mean:+.2f}" + ("" if bounds is None else " ({:+.2f} to {:+.2f})".format(*bounds))
    return text.replace("-", "−")


def claim(names: str) -> str:
    """Whether L1BN's mean lies among BN's seeds, and whether a difference was seen."""
    body = []
    for name in names.split():
        ours, theirs = by_norm(name)
        difference = compare_paired(ours, theirs)
        middle, low, high = mean(ours), min(theirs), max(theirs)
        seen = {None: "one seed", True: "yes", False: "no"}[difference.detected]
        if difference.only_in_pairs and difference.paired:
            low_pair, high_pair = difference.paired
            seen = f"in pairs: {low_pair:+.2f} to {high_pair:+.2f}".replace("-", "−")
        cells = [
            f"{middle:.2f}",
            f"{low:.2f} to {high:.2f}",
            "yes" if low <= middle <= high else "no",
        ]
        body.append(
            [f"[{LABELS[name]}](/results/{folder(name).name}/results.json)", str(len(ours))]
        )
        body[-1] += [*cells, interval(difference), seen]
    head = ["", "seeds", "L1BN, mean", "BN, its seeds", "within them", GAP, "difference detected"]
    return markdown(head, body)


def grid(name: str) -> str:
    """The first part of an arm's name as column, the rest as row."""
    found = read(name)
    rests = list(dict.fromkeys(_split(arm)[1] for arm in PLANS[name].arms))
    columns = list(dict.fromkeys(_split(arm)[0] for arm in PLANS[name].arms))
    ours = next(c for c in columns if c.endswith("l1"))
    body = []
    for rest in rests:
        cells = [found.get(f"{column}-{rest}") for column in columns]
        if not any(cells):
            continue
        seeds = "/".join(sorted({c["n"] for c in cells if c}))
        gap = away(found.get(f"{ours}-{rest}"))
        body.append([LABELS[rest], seeds, *map(accuracy, cells), gap])
    body.append(
        ["all conditions, over the seeds", *[""] * (len(columns) + 1), together(name, ours)]
    )
    names = [LABELS[c] for c in columns]
    if "int8" not in columns:  # the condition may be a precision
        names = [n.removeprefix("float32 ") for n in names]
    head = ["test accuracy [%]", "seeds", *names, GAP]
    return markdown(head, body)


def together(name: str, column: str) -> str:
    """The mean difference over all conditions, with Student's interval over the seeds."""
    runs = json.loads((folder(name) / "results.json").read_text())["runs"]
    found = {(r["arm"], r["seed"]): 100 * r["test_accuracy"] for r in runs}
    plan = PLANS[name]
    by_seed: dict[int, list[float]] = {}
    for (arm, seed), value in found.items():
        if _split(arm)[0] == column and (plan.reference(arm), seed) in found:
            by_seed.setdefault(seed, []).append(value - found[plan.reference(arm), seed])
    means = [mean(values) for _, values in sorted(by_seed.items())]
    difference = compare_paired(means, [0.0] * len(means))
    each = ", ".join(f"{m:+.2f}" for m in means)
    return f"{_signed(difference.mean, difference.paired)}; by seed {each}".replace("-", "−")


def _split(arm: str) -> tuple[str, str]:
    column = next(c for c in ("float-l1", "float-l2", "int8", "l1", "l2") if arm.startswith(c))
    return column, arm[len(column) + 1 :]


def gan(names: str) -> str:
    """Fréchet distances of both norms; smaller is better."""
    body = []
    for name in names.split():
        found = json.loads((folder(name) / "results.json").read_text())
        runs = [found["summary"][norm]["distance"] for norm in ("l1", "l2")]
        title = f"{LABELS[name]} ({link(name)})"
        for label, values in (("last", by_norm(name)), ("second half", second_half(name))):
            ends = [summarize(v) for v in values]
            cells = [f"{e.mean:.2f}" + (f" ± {e.std:.2f}" if e.n > 1 else "") for e in ends]
            gap = interval(compare_paired(*values))
            body.append([title, f"{found['steps']}", label, f"{runs[0]['n']}", *cells, gap])
            title = ""
    head = ["Fréchet distance", "steps", "measured", "seeds", "L1BN", "BN", GAP]
    return markdown(head, body)


def second_half(name: str) -> list[list[float]]:
    """Return the mean of the distances in the second half of each run, by norm and seed."""
    with (folder(name) / "curves.csv").open(newline="") as file:
        curve = list(csv.DictReader(file))
    steps = max(int(row["step"]) for row in curve)
    found: dict[str, dict[int, list[float]]] = {"l1": {}, "l2": {}}
    for row in curve:
        if 2 * int(row["step"]) > steps:
            distances = found[row["norm"]].setdefault(int(row["seed"]), [])
            distances.append(float(row["classifier_frechet"]))
    return [[mean(v) for _, v in sorted(runs.items())] for runs in found.values()]


def first(name: str) -> str:
    """First steps of pretrained networks, means over the seeds."""
    with (folder(name) / "first_steps.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        groups.setdefault((row["run"].rpartition("-seed")[0], row["norm"]), []).append(row)
    body = []
    for (run, norm), rows in groups.items():

        def middle(column: str, rows: list[Row] = rows) -> float:
            return mean(float(row[column]) for row in rows)

        spread = f"{middle('ratio_5%'):.2f} to {middle('ratio_95%'):.2f}" if norm == "BN" else ""
        moved = "" if norm == "BN" else f"{100 * middle('logits_moved'):.1f} %"
        network = PRETRAINED[run] if norm == "BN" else ""
        losses = [f"{middle(column):.3f}" for column in ("first_loss", "loss_of_20")]
        body.append([network, str(len(rows)), spread, norm, moved, *losses])
    head = ["pretrained with BN", "seeds", "deviation ratio / √(π/2), nine channels of ten"]
    head += ["goes on with", "outputs moved by", "loss, first batch", "first 20 steps"]
    return markdown(head, body)


def layers(name: str) -> str:
    """Ratios and gradients over the epochs."""
    found = json.loads((folder(name) / "results.json").read_text())["summary"]
    body = [
        [
            str(row["epoch"]),
            f"{row['ratio_median']:.3f}",
            f"{row['ratio_5%']:.3f} to {row['ratio_95%']:.3f}",
            f"{row['gradient_cosine']:.4f}",
        ]
        for row in found
    ]
    head = ["epoch", "deviation ratio, median", "nine channels of ten", "cosine of the gradients"]
    return markdown(head, body)


def rtl(names: str) -> str:
    """A table about the hardware."""
    kind, stimulus = names.split()
    return markdown(*RTL_TABLES[kind](stimulus))


def cpu(names: str) -> str:
    """A table about the kernels of the CPU."""
    kind, which = names.split(maxsplit=1)
    return markdown(*CPU_TABLES[kind](which))


KINDS = {
    "claim": claim,
    "table": table,
    "rows": rows,
    "grid": grid,
    "gan": gan,
    "first": first,
    "layers": layers,
    "rtl": rtl,
    "cpu": cpu,
    "device": lambda kind: markdown(*DEVICE_TABLES[kind]()),
    "integers": lambda kind: markdown(*INTEGER_TABLES[kind]()),
    "gpu": lambda kind: markdown(*GPU_TABLES[kind]()),
}


def filled(text: str, page: str) -> str:
    """Return a page's text with its tables made anew, their links seen from that page."""
    up = "../" * page.count("/")
    return BLOCK.sub(lambda m: m[1] + KINDS[m[2]](m[3]).replace("](/", f"]({up}") + m[4], text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    options = parser.parse_args()
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        new = filled(text, page)
        if options.check and new != text:
            raise SystemExit(f"{page} is not what results/ say: run this script")
        if not options.check:
            (ROOT / page).write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
