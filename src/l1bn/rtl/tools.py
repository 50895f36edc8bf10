"""External programs: where they are, and what to install where they are not."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from l1bn.errors import UserError

#: Debian package of each program.
PACKAGES = {
    "yosys": "yosys",
    "iverilog": "iverilog",
    "vvp": "iverilog",
    "sta": "opensta",
    "dot": "graphviz",
}
#: The default library, from the package qflow-tech-osu018.
DEFAULT_LIBERTY = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")


class ToolError(UserError):
    """A program is missing or failed."""


def find(program: str) -> str:
    """Path of a program.

    Raises:
        ToolError: With the command that installs it.
    """
    path = shutil.which(program)
    if path is None:
        package = PACKAGES.get(program, program)
        raise ToolError(f"{program}: not found; install it with: apt-get install {package}")
    return path


def missing(*programs: str) -> str:
    """The one line that installs what is missing, or an empty string."""
    absent = sorted({PACKAGES[p] for p in programs if shutil.which(p) is None})
    return f"apt-get install {' '.join(absent)}" if absent else ""


def run(arguments: list[str], folder: Path, timeout: float = 1800) -> tuple[str, float]:
    """Run a program in a folder; return its output and the seconds it took.

    Raises:
        ToolError: With the end of its output, if it fails.
    """
    command = [find(arguments[0]), *arguments[1:]]
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode != 0:
        tail = "\n".join(output.strip().splitlines()[-15:])
        raise ToolError(f"{arguments[0]} failed with status {done.returncode}:\n{tail}")
    return output, time.monotonic() - start


def version(program: str) -> str:
    """First line that a program says about its version, or "missing"."""
    if shutil.which(program) is None:
        return "missing"
    flag = {"yosys": "-V", "iverilog": "-V", "sta": "-version"}.get(program, "--version")
    done = subprocess.run([program, flag], capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"
