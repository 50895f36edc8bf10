"""Every example runs as it is, and the notebook cell by cell."""

from __future__ import annotations

import importlib.util
import json
import linecache
import os
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {
    "with_timm": ["timm", "torchvision"],
    "with_transformers": ["transformers", "accelerate"],
    "with_lightning": ["lightning"],
    "with_accelerate": ["accelerate"],
    "onnx_export": ["onnx", "onnxscript", "onnxruntime"],
    "int8_new_class": ["sklearn"],
}
LAUNCHED = {"data_parallel"}
"""Those that a launcher starts."""
TOOLS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def need(name: str) -> None:
    for module in NEEDS.get(name, []):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads, and those that wait spin."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - LAUNCHED))
@pytest.mark.filterwarnings("default")
def test_it_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    need(name)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the libraries that it shows
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capfd.readouterr().out.strip()
    assert not list(tmp_path.iterdir())


def test_two_processes_share_their_statistics(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += ["2", str(EXAMPLES / "data_parallel.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 processes, loss" in done.stdout


def test_the_hardware_unit_is_generated(tmp_path: Path) -> None:
    if importlib.util.find_spec("amaranth") is None or shutil.which("l1bn", path=TOOLS) is None:
        pytest.skip("needs an installation with the extra rtl")
    command = ["bash", str(EXAMPLES / "hardware_unit.sh"), str(tmp_path / "rtl")]
    subprocess.run(command, env={**os.environ, "PATH": TOOLS}, check=True, capture_output=True)
    assert {path.suffix for path in (tmp_path / "rtl").iterdir()} >= {".v", ".json", ".h", ".md"}


def test_the_notebook_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((EXAMPLES / "plain_loop.ipynb").read_text())
    assert notebook["nbformat"] == 4
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    names: dict[str, Any] = {"__name__": "__main__"}
    for i, cell in enumerate(cells):  # notebooks keep the source of their cells there too
        linecache.cache[f"<cell {i}>"] = (len(cell), None, cell.splitlines(True), f"<cell {i}>")
        exec(compile(cell, f"<cell {i}>", "exec", dont_inherit=True), names)
    accuracies = names["accuracies"]
    assert min(a[-1] for a in accuracies.values()) > 0.9, accuracies
    assert names["kept"]["L1BN"] < 0.75 * names["kept"]["BatchNorm"], names["kept"]


def test_each_is_short_and_named_in_the_docs() -> None:
    page = (EXAMPLES.parent / "docs/start/examples.md").read_text()
    for path in filter(Path.is_file, EXAMPLES.iterdir()):
        assert path.name in page
        if path.suffix != ".ipynb":
            assert len(path.read_text().splitlines()) < 60, path
