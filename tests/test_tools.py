"""External programs: found, run, and what is said where they are missing, fail or hang."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from l1bn import tools


def test_a_program_runs_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("some words")
    code = "import sys; print(open('words').read()); print('a warning', file=sys.stderr)"
    ended = tools.run([sys.executable, "-c", code], tmp_path)
    assert ended.output == "some words\n"
    assert ended.seconds > 0


def test_a_program_has_nothing_to_read() -> None:
    code = "import sys; print(repr(sys.stdin.read()))"
    assert tools.run([sys.executable, "-c", code]).output == "''\n"


def test_a_failing_program_shows_its_last_words() -> None:
    with pytest.raises(tools.ToolError, match="failed with status 3:\nlast words"):
        tools.run([sys.executable, "-c", "print('last words'); raise SystemExit(3)"])


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(tools.ToolError, match=r"expected to end within 0\.1 s, it did not"):
        tools.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.1)


def test_what_is_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tools.missing(sys.executable) is None
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        tools.ToolError, match=r"^sta: not found; install with: apt-get install opensta$"
    ):
        tools.find("sta")
    several = "clang and node: not found; install with: apt-get install clang nodejs"
    assert tools.missing("node", "clang", sys.executable) == several
    assert tools.missing("vvp", "iverilog") == (
        "iverilog and vvp: not found; install with: apt-get install iverilog"
    )
