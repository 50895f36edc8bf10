"""The tests of what is timed."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.gpu.scale import ROOT, Run


def run_tests(run: Run) -> None:
    """Refuse to measure what is wrong."""
    gpu = run.scale.device == "cuda"
    tests = ["tests/ops/triton/test_gpu.py"]
    if not gpu:
        tests = ["tests/ops/triton/interpreted.py", "-k", "device"]
    paths = [str(ROOT / "tests/support"), *filter(None, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    plugin = [] if gpu else ["-p", "triton_interpreter"]
    command = [sys.executable, "-m", "pytest", *plugin, "-p", "no:xdist", "-q", "-W", "ignore"]
    if subprocess.run([*command, *tests], cwd=ROOT, env=environment, check=False).returncode:
        raise SystemExit("the tests of what is timed failed: no numbers")
