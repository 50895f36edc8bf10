"""Accuracy of integer training against float, over seeds, and what each choice of formats costs.

    python benchmarks/integer_accuracy.py resnet20 --data ../data/cifar10 --out results/resnet20
    python benchmarks/integer_accuracy.py ablation --data ../data/cifar10 --out results/ablation

Runs what is not yet there under ``runs/integer-PLAN`` (an interrupted run goes on where it was;
remove the folder before other data) and writes every run, the curves, and a table of the last
epochs.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from l1bn.environment import describe_environment
from l1bn.recipes.curves import read_rows
from l1bn.recipes.statistics import compare_paired, summarize

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Plan:
    """Arms that share everything but a few options.

    Attributes:
        shared: Options of every run.
        arms: Options of each arm, by its name; the first is what the others are compared with.
        seeds: Number of seeds.
        first: Runs that come before: an arm starts from the weights of the one that its options
            name in braces.
        old_classes: Classes whose accuracy after the run tells what was forgotten.
    """

    shared: tuple[str, ...]
    arms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seeds: int = 2
    first: dict[str, tuple[str, ...]] = field(default_factory=dict)
    old_classes: tuple[int, ...] = ()


INT8 = ("--precision", "int8")
PRECISIONS = {"int8": INT8, "l1": ("--norm", "l1"), "l2": ("--norm", "l2")}
ABLATION = {
    "int8": (),
    "no-norm": ("--int8-norm", "none", "--lr", "0.02"),
    "l2-norm": ("--norm", "l2"),
    "range-norm": ("--int8-norm", "range"),
    "sigma-pow2": ("--int8-sigma", "pow2"),
    "tensor-exponents": ("--int8-exponents", "tensor"),
    "residual-8": ("--int8-residual-fraction", "4"),
    "nearest": ("--int8-rounding", "nearest"),
    "master-12": ("--int8-master-bits", "12"),
    "master-8": ("--int8-master-bits", "8"),
    "master-8-nearest": ("--int8-master-bits", "8", "--int8-rounding", "nearest"),
    "error-6": ("--int8-error-bits", "6"),
    "error-4": ("--int8-error-bits", "4"),
}
BACKBONES = {
    "frozen": ("--backbone-rate", "0", "--frozen-statistics"),
    "slow": ("--backbone-rate", "0.1"),
    "slow-frozen-statistics": ("--backbone-rate", "0.1", "--frozen-statistics"),
    "free": (),
}
STARTS = {
    "int8": ("--weights", "{l1}", *INT8),
    "float-l1": ("--weights", "{l1}", "--norm", "l1"),
    "float-l2": ("--weights", "{l2}", "--norm", "l2"),
}
FIRST = ("--model", "resnet8", "--epochs", "4", "--classes", "0", "1", "2", "3", "4")
PLANS = {
    "transfer": Plan(
        ("--model", "resnet8", "--epochs", "2", "--lr", "0.05", "--classes", *"56789"),
        {
            f"{s}-{b}": (*start, *back)
            for b, back in BACKBONES.items()
            for s, start in STARTS.items()
        },
        first={"l1": (*FIRST, "--norm", "l1"), "l2": (*FIRST, "--norm", "l2")},
        old_classes=(0, 1, 2, 3, 4),
    ),
    "resnet20": Plan(("--model", "resnet20", "--epochs", "12"), PRECISIONS),
    "vgg7": Plan(("--model", "vgg7", "--width", "0.125", "--epochs", "10"), PRECISIONS),
    "fashion": Plan(("--model", "resnet20", "--epochs", "3"), PRECISIONS, seeds=3),
    "ablation": Plan(
        ("--model", "resnet8", "--epochs", "4", "--images", "12500"),
        {
            **{name: (*INT8, *options) for name, options in ABLATION.items()},
            "float-l1": ("--norm", "l1"),
            "float-l2": ("--norm", "l2"),
        },
    ),
}


def run(folder: Path, options: list[str]) -> None:
    """Train one run to its end."""
    if (folder / "result.json").exists():
        return
    command = [sys.executable, "-m", "l1bn.cli", "train"]
    if (folder / "last.pt").exists():
        command += ["--resume", str(folder)]
    else:
        command += [*options, "--out", str(folder)]
    print(" ".join(command[3:]), flush=True)
    subprocess.run(command, check=True)


def train_seed(plan: Plan, runs: Path, arms: list[str], seed: int, extra: list[str]) -> None:
    """Train every arm of one seed, and what it starts from."""
    extra = [*extra, "--seed", str(seed)]
    weights = {}
    for name, options in plan.first.items():
        folder = runs / f"first-{name}-seed{seed}"
        weights[name] = str(folder / "last.pt")
        run(folder, [*options, *extra])
    for arm in arms:
        options = tuple(o.format(**weights) for o in plan.arms[arm])
        run(runs / f"{arm}-seed{seed}", [*plan.shared, *options, *extra])


def collect(plan: Plan, runs: Path) -> list[dict[str, Any]]:
    """Return the finished runs."""
    rows = []
    for arm in plan.arms:
        for seed in range(plan.seeds):
            path = runs / f"{arm}-seed{seed}" / "result.json"
            if path.exists():
                result = json.loads(path.read_text())
                rows.append({"arm": arm, "seed": seed, **result})
    return rows


def table(plan: Plan, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean, deviation and difference from the first arm, paired by seed [points]."""
    found = []
    first = next(iter(plan.arms))
    by_seed = {arm: {r["seed"]: r for r in rows if r["arm"] == arm} for arm in plan.arms}
    for arm, runs in by_seed.items():
        if not runs:
            continue
        shared = sorted(runs.keys() & by_seed[first].keys())
        summary = summarize([r["test_accuracy"] for r in runs.values()])
        entry: dict[str, Any] = {
            "arm": arm,
            "n": len(runs),
            "accuracy": round(100 * summary.mean, 2),
            "std": "" if len(runs) < 2 else round(100 * summary.std, 2),
            **_forgetting(plan, list(runs.values())),
            "train_loss": round(sum(r["train_loss"] for r in runs.values()) / len(runs), 4),
        }
        if arm != first and len(shared) > 1:
            mine, theirs = ([by_seed[a][s]["test_accuracy"] for s in shared] for a in (arm, first))
            difference = compare_paired(mine, theirs)
            entry["minus_first"] = round(100 * difference.mean, 2)
            if difference.welch is not None:
                low, high = difference.welch
                entry["welch_95"] = f"{100 * low:+.2f} to {100 * high:+.2f}"
        found.append(entry)
    return found


def _forgetting(plan: Plan, runs: list[dict[str, Any]]) -> dict[str, float]:
    if not plan.old_classes:
        return {}
    old = [r["class_accuracy"][c] for r in runs for c in plan.old_classes]
    return {"old_classes": round(100 * sum(old) / len(old), 2)}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(k for r in rows for k in r))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


LABELS = {"int8": "int8 L1BN", "l1": "float32 L1BN", "l2": "float32 BN"}


def plot(plan: Plan, curves: list[dict[str, Any]], path: Path) -> None:
    """Draw the test accuracy of every arm over the epochs: mean of the seeds, and their range."""
    matplotlib.use("svg")
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for arm in plan.arms:
        by_epoch: dict[int, list[float]] = {}
        for row in curves:
            if row["arm"] == arm:
                by_epoch.setdefault(int(row["epoch"]), []).append(100 * float(row["test_accuracy"]))
        if not by_epoch:
            continue
        epochs = sorted(by_epoch)
        (line,) = axes.plot(epochs, [mean(by_epoch[e]) for e in epochs], label=LABELS.get(arm, arm))
        low, high = ([f(by_epoch[e]) for e in epochs] for f in (min, max))
        axes.fill_between(epochs, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    axes.set(xlabel="epoch", ylabel="test accuracy [%]")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2 if len(plan.arms) > 6 else 1)
    figure.savefig(path)
    plt.close(figure)


def write(plan: Plan, runs: Path, out: Path, command: str) -> None:
    """Write the results of the finished runs."""
    rows = collect(plan, runs)
    out.mkdir(parents=True, exist_ok=True)
    curves = [
        {"arm": r["arm"], "seed": r["seed"], **row}
        for r in rows
        for row in read_rows(runs / f"{r['arm']}-seed{r['seed']}" / "epochs.csv")
    ]
    write_csv(out / "curves.csv", curves)
    plot(plan, curves, out / "curves.svg")
    summary = table(plan, rows)
    write_csv(out / "table.csv", summary)
    for r in rows:
        r["config"] = {k: v for k, v in r["config"].items() if k not in ("out", "weights")}
    content = {
        "command": command,
        "environment": describe_environment(),
        "runs": rows,
        "table": summary,
    }
    (out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    for entry in summary:
        print(entry)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", choices=PLANS)
    parser.add_argument("--data", required=True)
    parser.add_argument("--arms", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, help="other than the plan's")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--collect", action="store_true", help="train nothing; write what is there")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    plan = PLANS[options.plan]
    runs = ROOT / "runs" / f"integer-{options.plan}"
    seeds = options.seeds or plan.seeds
    if not options.collect:
        extra = ["--data", options.data]
        if options.threads:
            extra += ["--threads", str(options.threads)]
        for seed in range(seeds):
            train_seed(plan, runs, options.arms or list(plan.arms), seed, extra)
    command = (
        f"python benchmarks/integer_accuracy.py {options.plan} --data DATA --out {options.out}"
    )
    write(replace(plan, seeds=seeds), runs, options.out, command)


if __name__ == "__main__":
    main()
