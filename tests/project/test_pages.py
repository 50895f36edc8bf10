"""Pages: their examples, the width of their prose, and what they name."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from l1bn.cli import COMMANDS
from l1bn.recipes.config import CompareConfig, TrainConfig
from l1bn.recipes.gan.config import GanCompareConfig, GanConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_page_is_run_whole_where_tests_run_in_parallel() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "2", "docs/use/compile.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "ARCHITECTURE.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
_CODE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_FORMULA = re.compile(r"^\$\$.*?\$\$$", re.MULTILINE | re.DOTALL)
_WHOLE = re.compile(r"\||#|!\[|<!--|    ")
"""How a line begins that cannot be broken: a table's, a heading, a picture, a note, code."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_has_lines_of_a_hundred_columns(page: Path) -> None:
    text = _FORMULA.sub("", _CODE.sub("", page.read_text(encoding="utf-8")))
    lines = [line for line in text.splitlines() if not _WHOLE.match(line)]
    assert not [line for line in lines if len(line) > 100]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    """Scripts and examples, targets of make, commands and their options."""
    text = " ".join(page.read_text(encoding="utf-8").split())
    for script in re.findall(r"python ((?:benchmarks|examples|tests)/[\w/]+\.py)", text):
        assert (ROOT / script).is_file(), script
    for module in re.findall(r"python -m (benchmarks[\w.]+)", text):
        place = ROOT / module.rstrip(".").replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"[`$] ?make ([\w-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command, rest in re.findall(r"[`$] ?l1bn ([a-z-]+)((?: [^`$#]*)?)", text):
        assert command in COMMANDS, command
        if command in KINDS:
            known = {f.name.replace("_", "-") for f in dataclasses.fields(KINDS[command])}
            found = set(re.findall(r"--(?:no-)?([a-z][\w-]+)", rest))
            assert found <= known | EVERYWHERE, found - known - EVERYWHERE


KINDS = {
    "train": TrainConfig,
    "compare": CompareConfig,
    "gan": GanConfig,
    "gan-compare": GanCompareConfig,
}
EVERYWHERE = {"help", "resume", "quiet", "tyro-print-completion"}
