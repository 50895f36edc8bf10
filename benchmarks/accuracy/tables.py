"""Tables and curves of `accuracy.py`."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from benchmarks.accuracy.plans import Plan
from l1bn.recipes.statistics import compare_paired, summarize


def table(plan: Plan, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean, deviation and difference from the reference, paired by seed [points]."""
    by_seed = {arm: {r["seed"]: r for r in rows if r["arm"] == arm} for arm in plan.arms}
    return [
        {**_summary(plan, arm, runs), **_difference(runs, by_seed.get(plan.reference(arm), {}))}
        for arm, runs in by_seed.items()
        if runs
    ]


def _summary(plan: Plan, arm: str, runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    accuracy = summarize([r["test_accuracy"] for r in runs.values()])
    return {
        "arm": arm,
        "n": len(runs),
        "accuracy": round(100 * accuracy.mean, 2),
        "std": "" if len(runs) < 2 else round(100 * accuracy.std, 2),
        **_forgetting(plan, list(runs.values())),
        "train_loss": round(mean(r["train_loss"] for r in runs.values()), 4),
    }


def _difference(
    runs: dict[int, dict[str, Any]], others: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    shared = sorted(runs.keys() & others.keys())
    if runs is others or len(shared) < 2:
        return {}
    mine, theirs = ([r[s]["test_accuracy"] for s in shared] for r in (runs, others))
    found = compare_paired(mine, theirs)
    text = (
        "" if found.welch is None else "{:+.2f} to {:+.2f}".format(*(100 * e for e in found.welch))
    )
    return {"difference": round(100 * found.mean, 2), "welch_95": text}


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
        (line,) = axes.plot(epochs, [mean(by_epoch[e]) for e in epochs], label=plan.label(arm))
        low, high = ([f(by_epoch[e]) for e in epochs] for f in (min, max))
        axes.fill_between(epochs, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    axes.set(xlabel="epoch", ylabel="test accuracy [%]")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2 if len(plan.arms) > 6 else 1)
    figure.savefig(path)
    plt.close(figure)
