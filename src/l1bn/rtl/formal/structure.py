"""What a netlist shows without a solver: latches, loops, drivers, and what depends on what."""

from __future__ import annotations

import tempfile
from pathlib import Path

from l1bn import tools
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.formal.solver import Proof, Refuted
from l1bn.rtl.unit import emit
from l1bn.rtl.unit.emit.interface import Interface

_SCRIPT = """\
read_verilog unit.v
hierarchy -check -top {top}
proc
flatten
opt_clean
check -assert
select -assert-none t:$dlatch t:$adlatch t:$dlatchsr t:$sr
{paths}
"""
#: Input and output with no combinational path between them: from every input that the output
#: depends on within a clock, the input is missing.
_NO_PATH = "select -assert-none o:{output} %ci*:-$dff i:{input} %i"
_TOLD = ("ERROR", "Warning")


def prove(config: UnitConfig) -> Proof:
    """The bare unit, the one behind AXI4-Stream channels, and the one with registers.

    Raises:
        Refuted: If yosys finds what must not be there.
        ToolError: If yosys is missing.
    """
    seconds = 0.0
    for axi in (False, True):
        boundary = emit.describe_interface(config, axi=axi)
        seconds += check(emit.verilog_text(config, axi=axi), boundary, _forbidden(boundary, axi))
    boundary = emit.describe_interface(config, registers=True)
    seconds += check(emit.verilog_text(config, registers=True), boundary, [("*", "*")])
    return Proof(("structure",), 0, True, seconds)


def _forbidden(boundary: Interface, axi: bool) -> list[tuple[str, str]]:
    """Pairs of an output and an input that it must not depend on within a clock."""
    streams = boundary.streams
    inward, outward = ("command", "element"), "result"
    ready = streams[outward].ready
    pairs = [(streams[outward].valid, ready), (streams[outward].word.port, ready)]
    if axi:
        pairs += [(streams[name].ready, ready) for name in inward]
    return pairs


def check(text: str, boundary: Interface, forbidden: list[tuple[str, str]]) -> float:
    """Check Verilog; return the seconds it took.

    Args:
        text: The Verilog.
        boundary: Its boundary.
        forbidden: Pairs of an output and an input that it must not depend on within a clock.

    Raises:
        Refuted: If something is found.
        ToolError: If yosys is missing.
    """
    paths = "\n".join(_NO_PATH.format(output=o, input=i) for o, i in forbidden)
    with tempfile.TemporaryDirectory(prefix="l1bn-") as name:
        folder = Path(name)
        (folder / "unit.v").write_text(text)
        (folder / "unit.ys").write_text(_SCRIPT.format(top=boundary.module, paths=paths))
        try:
            return tools.run(["yosys", "-s", "unit.ys"], folder).seconds
        except tools.ToolError as error:
            last = [line for line in str(error).splitlines() if line.startswith(_TOLD)]
            if not last:  # yosys is missing, or did not end
                raise
            raise Refuted(f"{boundary.module}: {' '.join(last)}", ["structure"]) from error
