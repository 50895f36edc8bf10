"""What is written beside measured numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_ASK = "from l1bn.environment import describe_environment as d; print(d()['command'])\n"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["-m", "room.bench", "--threads", "1 2"], "python -m room.bench --threads '1 2'"),
        (["-m", "room"], "python -m room"),
        (["room/bench.py"], "bench.py"),
    ],
    ids=["module", "package", "file"],
)
def test_the_command_is_what_was_typed(arguments: list[str], wanted: str, tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    for name in ("__init__.py", "__main__.py", "bench.py"):
        (room / name).write_text("" if name == "__init__.py" else _ASK)
    found = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == wanted
