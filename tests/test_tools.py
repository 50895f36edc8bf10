"""External programs: found, run, and what is said where they are missing, fail or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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


#: A program that hears no polite signal, and one that it starts; both say who they are.
DEAF = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
folder, leaves = sys.argv[1], sys.argv[2:] == ["leaves"]
if os.fork() == 0 or not leaves:
    open(f"{folder}/{os.getpid()}.part", "w").close()
    os.rename(f"{folder}/{os.getpid()}.part", f"{folder}/{os.getpid()}")
    time.sleep(60)
"""


# As from a terminal: under nohup, or in the background of a script, signals are ignored.
CALLER = """
import signal, sys
from l1bn import tools
signal.signal(signal.SIGINT, signal.default_int_handler)
for signum in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(signum, signal.SIG_DFL)
tools.run([sys.executable, *sys.argv[1:]])
"""


def running(folder: Path, count: int) -> list[int]:
    """Processes that have said who they are, once there are so many."""
    end = time.monotonic() + 30
    while len(found := [int(p.name) for p in folder.glob("*[0-9]")]) < count:
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def runs(process: int) -> bool:
    """Whether it does; a zombie has ended, and whoever adopted it has not asked yet."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_ended(processes: list[int]) -> None:
    end = time.monotonic() + 10
    while left := [process for process in processes if runs(process)]:
        assert time.monotonic() < end, f"{left} still run"
        time.sleep(0.02)


@pytest.mark.parametrize("mode", [[], ["leaves"]], ids=["stays", "leaves its child behind"])
def test_what_a_hanging_program_started_ends_with_it(mode: list[str], tmp_path: Path) -> None:
    with pytest.raises(tools.ToolError, match="expected to end within 2 s"):
        tools.run([sys.executable, "-c", DEAF, str(tmp_path), *mode], timeout=2)
    assert_ended(running(tmp_path, 1 if mode else 2))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_this_process_ends_the_program(signum: int, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CALLER, "-c", DEAF, str(tmp_path)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as caller:
        try:
            started = running(tmp_path, 2)
            caller.send_signal(signum)
            assert caller.wait(30) in (128 + signum, -signum)
        finally:
            caller.kill()
    assert_ended(started)


def test_an_ignored_signal_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code = "import os, signal; os.kill(os.getppid(), signal.SIGHUP)"
        tools.run([sys.executable, "-c", code])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGHUP) == before


def test_a_program_of_a_python_package_says_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies beside Python, in PATH or not."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert tools.version(Path(sys.executable).name).startswith("Python 3")
    assert tools.version("no-such-program") == "missing"


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
