"""Times on a device, and tables that hold every row from the moment it is known."""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Rows:
    """A CSV that holds every row from the moment it is known."""

    def __init__(self, path: Path, environment: dict[str, Any]) -> None:
        self.path, self.environment, self.fields = path, environment, list[str]()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.with_suffix(".json").write_text(json.dumps(environment, indent=2, default=str) + "\n")

    def add(self, **row: Any) -> None:
        """Append a row, and show it."""
        row = {"gpu": self.environment["gpu"], **row}
        new = not self.fields
        self.fields = self.fields or list(row)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.fields, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(*(f"{k}={v}" for k, v in row.items() if k != "gpu"), flush=True)


def timed(call: Callable[[], object], device: str) -> float:
    """Milliseconds of a call, on the device."""
    import torch

    if device == "cpu":
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def in_turn(
    calls: dict[str, Callable[[], object]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Times of each call, one after the other in every round, after a warm-up."""
    for call in calls.values():
        for _ in range(3 if device == "cuda" else 1):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed(call, device))
    return times


def spread(samples: list[float]) -> dict[str, float]:
    """Median and quartiles [ms]."""
    if len(samples) < 2:
        return {"ms": samples[0], "low": samples[0], "high": samples[0]}
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {"ms": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}


def environment() -> dict[str, Any]:
    """What was measured on."""
    from l1bn.environment import describe_environment

    return describe_environment()
