"""The page of the architecture names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = sorted(
    set(re.findall(r"`([\w/]+\.(?:py|h|cpp|c))`", (ROOT / "ARCHITECTURE.md").read_text()))
)


def test_the_page_names_files() -> None:
    assert len(NAMED) > 30


@pytest.mark.parametrize("name", NAMED)
def test_a_named_file_exists(name: str) -> None:
    here = name.startswith(("csrc/", "tests/", "benchmarks/"))
    path = ROOT / name if here else ROOT / "src/l1bn" / name
    assert path.is_file()
