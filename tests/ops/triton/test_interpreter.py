"""Run the GPU kernels' tests on the CPU, and compile the kernels for GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
]


def _run(*arguments: str, **environment: str) -> None:
    paths = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": paths} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("half", ["shapes", "not shapes"])
def test_the_kernels_in_the_interpreter(half: str) -> None:
    _run(
        "-m", "pytest", "-p", "triton_interpreter", "-p", "no:xdist", "-q", "-k", half,
        "-W", "ignore", "tests/ops/triton/interpreted.py",
    )  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("subject", ["compiled", "traffic", "pair", "pair_compiled"])
def test_operators_and_bytes_in_the_interpreter(subject: str) -> None:
    _run(
        "-m", "pytest", "-p", "triton_interpreter", "-p", "no:xdist", "-q", "-W", "ignore",
        f"tests/ops/triton/interpreted_{subject}.py",
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_what_is_kept_for_backward() -> None:
    _run(
        "-m", "pytest", "-p", "triton_interpreter", "-p", "no:xdist", "-q", "-W", "ignore",
        "-k", "triton and (frozen_layer or what_is_added and relu6-residual) and not channels_last",
        "tests/ops/test_kept.py",
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_the_kernels_compile_for_gpus_without_spills_or_float_atomics() -> None:
    _run("-W", "ignore", "benchmarks/gpu/ahead_of_time.py", "--quick", TRITON_INTERPRET="0")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("parts", "tables", "pictures"),
    [
        (["tests", "copy", "operators", "networks", "plots"],
         {"copy", "operators", "networks"}, {"operators", "networks"}),
        (["batch", "accuracy", "gan", "plots"],
         {"batch", "accuracy", "accuracy_summary", "gan"}, {"batch", "gan"}),
        (["sanitizer"], {"sanitizer"}, set()),
    ],
)  # fmt: skip
def test_the_benchmark_runs_from_start_to_end(
    parts: list[str], tables: set[str], pictures: set[str], tmp_path: Path
) -> None:
    _run(
        "-W", "ignore", "benchmarks/gpu/bench.py", "--tiny", "--out", str(tmp_path),
        "--parts", *parts,
    )  # fmt: skip
    assert {path.stem for path in tmp_path.glob("*.csv")} == {*tables, "parts"}
    assert {path.stem for path in tmp_path.glob("*.png")} == pictures
    done = (tmp_path / "parts.csv").read_text().splitlines()[1:]
    assert len(done) == len(parts)
    assert all(line.endswith(",done") for line in done)
