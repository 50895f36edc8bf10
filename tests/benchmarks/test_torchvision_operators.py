"""A torchvision that does not fit torch can be imported, and one that fits is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def _run(code: str, *folders: Path) -> str:
    paths = [str(folder) for folder in (*folders, ROOT, *filter(None, sys.path))]
    code = f"import benchmarks.models.torchvision_operators, torch\n{code}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


_DECLARED = "print(hasattr(torch.ops.torchvision, 'nms'))"


@pytest.mark.parametrize(("fits", "declared"), [(True, "False"), (False, "True")])
def test_declares_only_what_does_not_load(tmp_path: Path, fits: bool, declared: str) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").touch()
    if fits:
        (package / "_C.so").symlink_to(Path(torch.__file__).parent / "lib" / "libc10.so")
    else:
        (package / "_C.so").write_bytes(b"made for another torch")
    assert _run(_DECLARED, tmp_path) == declared


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_the_installed_torchvision_can_be_imported() -> None:
    assert _run("import torchvision.ops\nprint(torchvision.ops.nms.__name__)") == "nms"
