"""The floors of the architecture, and what a bare import may load."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

import l1bn

ROOT = pathlib.Path(__file__).parents[2]
HEAVY = [
    "triton",
    "amaranth",
    "datasets",
    "transformers",
    "matplotlib",
    "pandas",
    "tyro",
    "sklearn",
]


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_a_bare_import_is_light_and_leaves_the_gpu_alone() -> None:
    code = "import torch, sys; before = set(sys.modules); import l1bn; l1bn.nn;"
    loaded = run(
        code + "print(*(set(sys.modules) - before)); assert not torch.cuda.is_initialized()"
    )
    roots = {name.split(".")[0] for name in loaded.split()}
    assert not roots & set(HEAVY)
    assert "l1bn.ops.triton.launch" not in loaded.split()


def test_every_public_name_loads() -> None:
    for name in l1bn.__all__:
        assert getattr(l1bn, name) is not None
    assert set(l1bn.__all__) <= set(dir(l1bn))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = l1bn.nothing


def test_a_package_lists_what_it_hands_on_and_no_other_file_does() -> None:
    for path in sorted((ROOT / "src").rglob("*.py")):
        body = ast.parse(path.read_text()).body
        lists = any(
            isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__" for n in body
        )
        imports = any(isinstance(n, ast.ImportFrom) and n.module != "__future__" for n in body)
        assert lists == (path.name == "__init__.py" and imports), path


@pytest.mark.parametrize("module", ["l1bn.fixed_point", "l1bn.rtl"])
def test_integers_and_hardware_load_no_torch(module: str) -> None:
    assert "torch" not in run(f"import {module}, sys; print(*sys.modules)").split()


@pytest.mark.slow
def test_import_contracts() -> None:
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    command = [str(pathlib.Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
