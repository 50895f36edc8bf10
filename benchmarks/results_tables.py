"""Writes the tables of docs/ from results/, so that no figure is copied by hand.

    python benchmarks/results_tables.py            # fill in
    python benchmarks/results_tables.py --check    # fail where a table is not what results/ say

A table stands between two comments, of one of these kinds:

    <!-- table NAME -->            the arms of one plan, with differences from the reference
    <!-- rows NAME NAME ... -->    one plan a row, one arm a column, and of two norms the difference
    <!-- grid NAME -->             arms called A-B: A the column, B the row, and L1BN less BN
    <!-- gan NAME NAME -->         distances of GANs, one comparison a row
    <!-- layers NAME -->           the summary of `layer_analysis.py`
    <!-- rtl KIND STIMULUS -->     a table of `rtl_tables.py`
    <!-- cpu KIND THREADS -->      a table of `cpu_tables.py`
    <!-- end -->

NAME is a plan of `accuracy_plans.py`; the newest folder of results/ that ends in it counts.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from pathlib import Path

from accuracy_plans import LABELS, PLANS
from cpu_tables import TABLES as CPU_TABLES
from l1bn.recipes.statistics import compare_paired
from rtl_tables import TABLES as RTL_TABLES

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/integer_training.md", "docs/hardware.md", "docs/results.md")
BLOCK = re.compile(
    r"(<!-- (table|rows|grid|gan|layers|rtl|cpu) ([\w -]+?) -->\n).*?(<!-- end -->)", re.S
)
NORMS = ["l1", "l2"]
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
    return f"[results](../results/{folder(name).name}/results.json)"


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
        if arms == NORMS:
            cells.append(away(found["l1"]))
        body.append([f"{LABELS[name]} ({link(name)})", seeds, *cells])
    labels = [PLANS[plans[0]].label(a) for a in arms]
    if arms == NORMS:
        labels.append("L1BN − BN (95 %)")
    return markdown(["test accuracy [%]", "seeds", *labels], body)


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
    body.append(["all, paired", *[""] * (len(columns) + 1), together(name, ours)])
    names = [LABELS[c] for c in columns]
    if "int8" not in columns:  # the condition may be a precision
        names = [n.removeprefix("float32 ") for n in names]
    head = ["test accuracy [%]", "seeds", *names, "L1BN − BN (95 %)"]
    return markdown(head, body)


def together(name: str, column: str) -> str:
    """The mean difference over all conditions and seeds, with Student's interval of the pairs."""
    runs = json.loads((folder(name) / "results.json").read_text())["runs"]
    found = {(r["arm"], r["seed"]): 100 * r["test_accuracy"] for r in runs}
    plan = PLANS[name]
    pairs = [
        (value, found[plan.reference(arm), seed])
        for (arm, seed), value in found.items()
        if _split(arm)[0] == column and (plan.reference(arm), seed) in found
    ]
    difference = compare_paired(*zip(*pairs, strict=True))
    low, high = difference.paired or (float("nan"),) * 2
    text = f"{difference.mean:+.2f} ({low:+.2f} to {high:+.2f}; {len(pairs)} pairs)"
    return text.replace("-", "−")


def _split(arm: str) -> tuple[str, str]:
    column = next(c for c in ("float-l1", "float-l2", "int8", "l1", "l2") if arm.startswith(c))
    return column, arm[len(column) + 1 :]


def gan(names: str) -> str:
    """Fréchet distances of both norms; smaller is better."""
    body = []
    for name in names.split():
        found = json.loads((folder(name) / "results.json").read_text())
        runs = [found["summary"][norm]["distance"] for norm in ("l1", "l2")]
        cells = [f"{r['mean']:.2f}" + (f" ± {r['std']:.2f}" if r["n"] > 1 else "") for r in runs]
        welch = found["difference"]["welch"]
        interval = "" if welch is None else " ({:+.2f} to {:+.2f})".format(*welch)
        gap = (f"{found['difference']['mean']:+.2f}" + interval).replace("-", "−")
        title = f"{LABELS[found['config']['model']]} ({link(name)})"
        body.append([title, f"{found['steps']}", f"{runs[0]['n']}", *cells, gap])
    head = ["Fréchet distance", "steps", "seeds", "L1BN", "BN", "L1BN − BN (95 %)"]
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
    kind, threads = names.split()
    return markdown(*CPU_TABLES[kind](threads))


KINDS = {
    "table": table,
    "rows": rows,
    "grid": grid,
    "gan": gan,
    "layers": layers,
    "rtl": rtl,
    "cpu": cpu,
}


def filled(text: str) -> str:
    """Return a page with its tables made anew."""
    return BLOCK.sub(lambda m: m[1] + KINDS[m[2]](m[3]) + m[4], text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    options = parser.parse_args()
    for page in (ROOT / name for name in PAGES):
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        if options.check and new != text:
            raise SystemExit(f"{page.relative_to(ROOT)} is not what results/ say: run this script")
        if not options.check:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
