"""Examples of a page, of which the later ones use names of the earlier, run in one worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_page_is_run_whole_where_tests_run_in_parallel() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "2", "docs/use/compile.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
