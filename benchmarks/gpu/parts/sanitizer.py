"""The kernels under NVIDIA's compute-sanitizer: stray accesses, races, wrong barriers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.scale import ROOT, Run
from benchmarks.gpu.timing import Rows, environment

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
_FOUND = 9


def sanitizer() -> str | None:
    """The program, on the path or where CUDA lies."""
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    return shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=str(home / "bin")
    )


def watched(command: list[str], seconds: float) -> tuple[str, str]:
    """Run a command; say how it ended, and the last summary that it printed."""
    # Every tensor gets memory of its own, so that an access beside it is one beside all memory.
    own = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    paths = [str(ROOT / "src"), str(ROOT), *filter(None, sys.path)]
    own["PYTHONPATH"] = os.pathsep.join(paths)
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=own, capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return "no time", ""
    said = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", done.stdout + done.stderr)
    if done.returncode == 0:
        return "clean", said[-1] if said else ""
    print((done.stdout + done.stderr)[-4000:], flush=True)
    return ("errors" if done.returncode == _FOUND else "failed"), said[-1] if said else ""


def run_sanitizer(run: Run) -> None:
    """Each tool in turn; on a CPU the same step without one."""
    rows = Rows(run.out / "sanitizer.csv", environment())
    step = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks/gpu/small_step.py")]
    found = sanitizer()
    bad = []
    if run.scale.device != "cuda":
        commands = {"none": [*step, "--tiny"]}
    elif found is None:
        for tool in TOOLS:
            rows.add(tool=tool, outcome="not installed", summary="", seconds=0.0)
        return
    else:
        options = ["--error-exitcode", str(_FOUND)]
        commands = {tool: [found, "--tool", tool, *options, *step] for tool in TOOLS}
    for tool, command in commands.items():
        start = time.monotonic()
        outcome, summary = watched(command, max(1.0, run.ends - start))
        rows.add(
            tool=tool, outcome=outcome, summary=summary,
            seconds=round(time.monotonic() - start, 1),
        )  # fmt: skip
        bad += [tool] * (outcome in ("errors", "failed"))
    if bad:
        raise RuntimeError(f"expected no report of compute-sanitizer, got some from {bad}")
