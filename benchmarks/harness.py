"""Timing side by side: variants interleaved in one process, medians and quartiles."""

from __future__ import annotations

import csv
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

from l1bn.environment import describe_environment

RESULTS = Path(__file__).parent / "results"
WARM_UP = 3


def interleave(
    variants: Mapping[str, Callable[[], Sequence[float]]], rounds: int
) -> dict[str, list[Sequence[float]]]:
    """Call the variants in turn; each returns the seconds of its parts.

    Each round in another order: what runs before leaves memory and caches as it does, and the
    first small L1BN after BatchNorm took a quarter longer than the second.
    """
    times: dict[str, list[Sequence[float]]] = {name: [] for name in variants}
    order = list(variants)
    shuffle = random.Random(0).shuffle
    for i in range(rounds + WARM_UP):
        shuffle(order)
        for name in order:
            sample = variants[name]()
            if i >= WARM_UP:
                times[name].append(sample)
    return times


def seconds(call: Callable[[], Any], clock: Callable[[], float] = perf_counter) -> float:
    start = clock()
    call()
    return clock() - start


def clock_for(threads: int, busy: bool) -> Callable[[], float]:
    """Wall time; on a busy machine the time of the one thread, which others leave alone."""
    return thread_time if busy and threads == 1 else perf_counter


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


def milliseconds(samples: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles of times in seconds."""
    low, middle, high = (round(1e3 * v, 3) for v in quartiles(samples))
    return low, middle, high


def median_ratio(base: Sequence[float], other: Sequence[float]) -> float:
    """Median over rounds of the base's time over the other's."""
    return round(statistics.median(b / s for b, s in zip(base, other, strict=True)), 3)


def geometric_mean(values: Sequence[float]) -> float:
    return statistics.geometric_mean(values)


def refuse_on_red(*selection: str) -> None:
    """Run the tests of what is about to be timed; end the program if one fails."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *selection]
    print("testing what is timed:", *selection, flush=True)
    if subprocess.run(command, cwd=root, check=False).returncode != 0:
        raise SystemExit("the tests of what is timed failed: no numbers")


def write(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a CSV, and beside it the environment it was measured in."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    environment = json.dumps(describe_environment(), indent=2, default=str)
    path.with_suffix(".json").write_text(environment + "\n")
    return path


def replace_rows(name: str, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Path:
    """Write rows over those of the same keys in a CSV, so that a long table is made in parts."""
    path = RESULTS / f"{name}.csv"
    old: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="") as file:
            old = list(csv.DictReader(file))

    def key(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[k]) for k in keys)

    new = {key(row) for row in rows}
    return write(name, [row for row in old if key(row) not in new] + list(rows))
