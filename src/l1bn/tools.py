"""External programs: where they are, and what to install where they are not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sysconfig
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from l1bn.errors import UserError

PACKAGES = {
    "yosys": "yosys",
    "iverilog": "iverilog",
    "vvp": "iverilog",
    "yosys-smtbmc": "yosys",
    "sta": "opensta",
    "dot": "graphviz",
    "gcc": "gcc",
    "clang": "clang",
    "wasm-ld": "lld",
    "node": "nodejs",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
    "qemu-system-riscv32": "qemu-system-misc",
    "arm-none-eabi-size": "binutils-arm-none-eabi",
    "riscv64-unknown-elf-size": "binutils-riscv64-unknown-elf",
}
"""Debian package of each program."""
_LAST_LINES = 20


def search_path() -> str:
    """Folders to look for programs in: where Python packages put theirs, then PATH."""
    return os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))


class ToolError(UserError):
    """A program is missing or failed."""


class Ended(NamedTuple):
    """What a program left that ended well.

    Attributes:
        output: Its standard output.
        seconds: How long it ran.
        status: Its exit status.
    """

    output: str
    seconds: float
    status: int = 0


def find(program: str) -> str:
    """Return the path of a program.

    Raises:
        ToolError: If it is missing, with the command that installs it.
    """
    if reason := missing(program):
        raise ToolError(reason)
    return str(shutil.which(program, path=search_path()))


def missing(*programs: str) -> str | None:
    """Say in one line which programs are missing and what installs them; None if all are there."""
    absent = sorted({p for p in programs if shutil.which(p, path=search_path()) is None})
    if not absent:
        return None
    packages = sorted({PACKAGES.get(p, p) for p in absent})
    return f"{' and '.join(absent)}: not found; install with: apt-get install {' '.join(packages)}"


def run(
    command: Sequence[str],
    folder: Path | None = None,
    timeout: float = 1800,
    *,
    accept: Collection[int] = (0,),
) -> Ended:
    """Run a program to its end.

    Args:
        command: Its name and arguments.
        folder: Where to run it; None, here.
        timeout: Longest time it may take [s].
        accept: Exit statuses with which it ends well.

    Raises:
        ToolError: If it is missing, takes longer or fails, with the end of what it wrote.
    """
    path = find(command[0])
    start = time.monotonic()
    with (
        _heard_signals(),
        # A group of its own: what the program started ends with it.
        subprocess.Popen(
            [path, *command[1:]],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": search_path()},
            start_new_session=True,
        ) as process,
    ):
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException as reason:
            # Ctrl-C too. The program itself may be gone, and what it started still run.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(reason, subprocess.TimeoutExpired):
                raise ToolError(
                    f"{command[0]}: expected to end within {timeout:g} s, it did not"
                ) from reason
            raise
    if process.returncode not in accept:
        last = "\n".join((output + errors).strip().splitlines()[-_LAST_LINES:])
        raise ToolError(f"{command[0]} failed with status {process.returncode}:\n{last}")
    return Ended(output, time.monotonic() - start, process.returncode)


@contextmanager
def _heard_signals() -> Iterator[None]:
    """Within the block, a signal that would end this process unheard unwinds it instead.

    A program in a group of its own gets neither the signals of this one's group nor those of its
    terminal; it would run on alone.
    """

    def unwind(signum: int, _: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    main = threading.current_thread() is threading.main_thread()
    ends = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    previous = {s: signal.signal(s, unwind) for s in ends} if main else {}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def version(program: str) -> str:
    """Return the first line that a program says about its version, or "missing"."""
    if missing(program):
        return "missing"
    flag = {"yosys": "-V", "iverilog": "-V", "sta": "-version"}.get(program, "--version")
    done = subprocess.run([find(program), flag], capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"
