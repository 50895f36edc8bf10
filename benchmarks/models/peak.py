"""Peak memory of a training step, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

LIMIT = 4 << 30


def resident(key: str) -> int:
    """A line of the process's status [bytes]: VmRSS, now, or VmHWM, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"expected {key} in /proc/self/status")


def print_peak(step: Callable[[], object]) -> None:
    """By how much two steps raise the memory of this process; the second has gradients there."""
    before = resident("VmRSS")
    step(), step()
    print("peak", resident("VmHWM") - before)


def peaks(module: str, arguments: Sequence[str], batch: int) -> dict[str, int]:
    """Peak of a step, and the most images of which a step stays within 4 GiB.

    Args:
        module: it calls ``print_peak`` when called with ``--peak``, the arguments and a batch.
        arguments: what is measured.
        batch: images; the line goes through the peaks of as many and twice as many.
    """
    small, large = (_peak(module, arguments, n) for n in (batch, 2 * batch))
    each = (large - small) / batch
    return {"peak_bytes": small, "largest": int((LIMIT - small) / each) + batch}


def _peak(module: str, arguments: Sequence[str], batch: int) -> int:
    command = [sys.executable, "-m", module, "--peak", *arguments, str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return int(done.stdout.split()[-1])
