"""Test accuracy of networks trained in several ways, over seeds: one command for each table.

    python -m benchmarks.accuracy integer-resnet20 --data ../data/cifar10 --out results/resnet20
    python -m benchmarks.accuracy sensitivity --data ../data/cifar10 --out results/sensitivity

Runs what is not yet there under ``runs/PLAN`` (an interrupted run goes on where it was) and writes
every run, the curves, and a table of the last epochs. The plans are in `plans.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from benchmarks.accuracy.norm_variants import check_variant
from benchmarks.accuracy.plans import PLANS, Plan
from benchmarks.accuracy.tables import plot, table, write_csv
from l1bn.environment import describe_environment
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.files.checkpoint import CHECKPOINT, RESULT, load_checkpoint
from l1bn.recipes.files.curves import read_rows

ROOT = Path(__file__).parents[2]
MOST_LINES = 16
"""Arms that one plot can show."""


def seed_runs(
    plan: Plan, runs: Path, seed: int, extra: list[str]
) -> Iterator[tuple[str, Path, list[str]]]:
    """Yield name, folder and options of every run of a seed; what others start from comes first."""
    extra = [*extra, "--seed", str(seed)]
    weights = {}
    for name, options in plan.first.items():
        folder = runs / f"first-{name}-seed{seed}"
        weights[name] = str(folder / "last.pt")
        yield f"first-{name}", folder, [*options, *extra]
    for arm, choice in plan.arms.items():
        options = tuple(o.format(**weights) for o in choice)
        yield arm, runs / f"{arm}-seed{seed}", [*plan.shared, *options, *extra]


def without_variant(options: list[str]) -> tuple[list[str], str | None]:
    """Return the options of ``l1bn train``, and the variant of L1BN if one is asked for."""
    if "--variant" not in options:
        return options, None
    place = options.index("--variant")
    return options[:place] + options[place + 2 :], options[place + 1]


def check(folder: Path, options: list[str]) -> None:
    """Refuse a run, finished or not, that was made otherwise, or from other weights.

    Raises:
        SystemExit: It names the options that differ, or the weights that are missing or newer.
    """
    result, checkpoint = folder / RESULT, folder / CHECKPOINT
    if result.exists():
        saved = json.loads(result.read_text())["config"]
    elif checkpoint.exists():
        saved = load_checkpoint(checkpoint)["config"]
    else:
        return
    options, variant = without_variant(options)
    wanted = tyro.cli(TrainConfig, args=options)
    if changes := wanted.changes(saved):
        raise SystemExit(f"{folder} was made with {changes}; remove it to train it anew")
    check_variant(folder, variant)
    if wanted.weights is None or not result.exists():
        return
    if not wanted.weights.exists():
        raise SystemExit(f"{folder} started from {wanted.weights}, which is not there any more")
    if wanted.weights.stat().st_mtime > result.stat().st_mtime:
        raise SystemExit(f"{folder} is older than {wanted.weights}; remove it to train it anew")


def run(folder: Path, options: list[str]) -> None:
    """Train one run to its end.

    Raises:
        SystemExit: If the run failed, or Ctrl-C stopped it; it is saved then.
    """
    if (folder / RESULT).exists():
        return
    options, variant = without_variant(options)
    if variant is not None:
        script = "benchmarks.accuracy.norm_variants"
        command = [sys.executable, "-m", script, variant, *options, "--out", str(folder)]
    elif (folder / CHECKPOINT).exists():
        command = [sys.executable, "-m", "l1bn.cli", "train", "--resume", str(folder)]
    else:
        command = [sys.executable, "-m", "l1bn.cli", "train", *options, "--out", str(folder)]
    print(" ".join(command[1:]), flush=True)
    if code := to_its_end(command):
        raise SystemExit(code)


def to_its_end(command: list[str]) -> int:
    """Run a command; after Ctrl-C, which it receives too, give it the time to save."""
    with subprocess.Popen(command) as process:
        code = None
        while code is None:
            with suppress(KeyboardInterrupt):
                code = process.wait()
    return code


def collect(plan: Plan, runs: Path) -> list[dict[str, Any]]:
    """Return the finished runs of the plan."""
    rows = []
    for arm in plan.arms:
        for seed in range(plan.seeds):
            path = runs / f"{arm}-seed{seed}" / RESULT
            if path.exists():
                result = json.loads(path.read_text())
                rows.append({"arm": arm, "seed": seed, **result})
    return rows


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
    if len(plan.arms) <= MOST_LINES:
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


def command_line(options: argparse.Namespace) -> str:
    """Return the command that makes these results from nothing."""
    out = options.out.resolve()
    out = out.relative_to(ROOT) if out.is_relative_to(ROOT) else options.out
    words = ["python -m benchmarks.accuracy", options.plan, "--data DATA", f"--out {out}"]
    if options.arms:
        words.append("--arms " + " ".join(options.arms))
    if options.threads != 1:
        words.append(f"--threads {options.threads}")
    if options.seeds:
        words.append(f"--seeds {options.seeds}")
    return " ".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", choices=PLANS)
    parser.add_argument("--data", required=True)
    parser.add_argument("--arms", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, help="other than the plan's")
    parser.add_argument(
        "--threads", type=int, default=1, help="of each run; as many give the same digits"
    )
    parser.add_argument("--collect", action="store_true", help="train nothing; write what is there")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    plan = PLANS[options.plan]
    runs = ROOT / "runs" / options.plan
    seeds = options.seeds or plan.seeds
    extra = ["--data", options.data]
    arms = {name: plan.arms[name] for name in options.arms or plan.arms}
    for seed in range(seeds):
        for name, folder, choices in seed_runs(plan, runs, seed, extra):
            if name not in plan.first and name not in arms:
                continue
            check(folder, choices)
            if not options.collect:
                run(folder, [*choices, "--threads", str(options.threads)])
    write(replace(plan, seeds=seeds, arms=arms), runs, options.out, command_line(options))


if __name__ == "__main__":
    main()
