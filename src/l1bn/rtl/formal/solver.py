"""Claims decided by yosys-smtbmc: every sequence of inputs, up to a depth or for ever."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import verilog

from l1bn import tools
from l1bn.errors import UserError
from l1bn.rtl.formal.monitors.base import Monitor

#: What a proof needs; the package l1bn[rtl] brings z3.
PROGRAMS = ("yosys", "yosys-smtbmc", "z3")
_SCRIPT = """\
read_verilog -formal claim.v
hierarchy -check -top claim
proc
setattr -unset init w:* claim/w:* %d
flatten
opt_expr
opt_clean
write_smt2 -wires claim.smt2
"""
#: Clocks that some run must have, for a proof to say anything: assumptions bind after the reset.
_RUN = 3
_FAILED = re.compile(r"Assert failed in claim: claim\.v:(\d+)")
_STATUS = re.compile(r"Status: (\w+)")


class Refuted(UserError):  # noqa: N818
    """A claim that does not hold.

    Attributes:
        claims: Names of those that a sequence of inputs breaks.
    """

    def __init__(self, message: str, claims: list[str]) -> None:
        super().__init__(message)
        self.claims = claims


@dataclass(frozen=True)
class Proof:
    """How something was proven.

    Attributes:
        claims: What holds.
        depth: Clocks from the reset that were gone through.
        unbounded: Induction carries the claims on to any number of clocks.
        seconds: Time it took.
    """

    claims: tuple[str, ...]
    depth: int
    unbounded: bool
    seconds: float


def prove(monitor: Monitor, depth: int, *, induction: bool = True, timeout: float = 1800) -> Proof:
    """Prove every claim of a monitor.

    Args:
        monitor: The device and what is claimed of it.
        depth: Clocks from the reset; for an induction, its depth.
        induction: Prove for any number of clocks; else up to ``depth`` only.
        timeout: Longest time for one run of the solver [s].

    Raises:
        Refuted: If a claim does not hold, or the induction does not close.
        ToolError: If a program is missing or fails.
    """
    if absent := tools.missing(*PROGRAMS):
        raise tools.ToolError(absent)
    text = verilog.convert(
        monitor, name="claim", ports=monitor.free, emit_src=False, strip_internal_attrs=True
    )
    with tempfile.TemporaryDirectory(prefix="l1bn-") as name:
        folder = Path(name)
        (folder / "claim.v").write_text(text)
        (folder / "claim.ys").write_text(_SCRIPT)
        tools.run(["yosys", "-q", "-s", "claim.ys"], folder)
        seconds = _solve(folder, text, ["-t", str(depth)], timeout)
        if induction:
            seconds += _solve(folder, text, ["-i", "-t", str(depth)], timeout)
        seconds += _solve(folder, text, ["-g", "-t", str(max(depth, _RUN))], timeout)
    return Proof(tuple(monitor.claimed), depth, induction, seconds)


def _solve(folder: Path, text: str, options: list[str], timeout: float) -> float:
    command = ["yosys-smtbmc", "-s", "z3", "--noprogress", *options, "claim.smt2"]
    done = tools.run(command, folder, timeout, accept=(0, 1))
    status = _STATUS.findall(done.output)
    if done.status == 0 and status[-1:] == ["PASSED"]:
        return done.seconds
    if status[-1:] != ["FAILED"]:
        raise tools.ToolError(f"yosys-smtbmc ended without a verdict:\n{done.output[-2000:]}")
    if "-g" in options:  # no run at all
        raise Refuted("the assumptions contradict each other: nothing was proven", [])
    lines = text.splitlines()
    # An assertion begins on the line before its condition.
    places = ["".join(lines[int(n) - 1 : int(n) + 1]) for n in _FAILED.findall(done.output)]
    claims = sorted({name for place in places for name in re.findall(r"holds_(\w+)", place)})
    how = "by induction" if "-i" in options else "from reset"
    raise Refuted(f"does not hold ({how}): {', '.join(claims) or 'unknown'}", claims)
