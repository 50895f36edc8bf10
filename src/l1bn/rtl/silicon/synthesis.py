"""Synthesis with yosys and abc: Verilog in, a netlist of library cells out."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from l1bn.rtl import tools
from l1bn.rtl.cache import Cache
from l1bn.rtl.silicon import liberty

#: Cells that synthesis must not use: level shifters, isolation, probes, delay and clock cells, and
#: whatever the library marks itself.
_AVOID = re.compile(
    r"lpflow|probe|macro|dlygate|dlymetal|clkdly|clkinvlp|clkbuf|clkinv|CLKBUF|bufbuf|bufinv|"
    r"einv|ebuf|TBUF|sighold|antenna|edf|sdf|sedf|_dlxbn|_dlxbp|decap|fill",
)

_START = ["strash", "ifraig", "scorr"]
_MAP = ["dch -f", "map -D {delay}"]
_AGAIN = ["unmap", "strash", *_MAP]
_SIZE = ["topo", "buffer -c", "topo", "upsize -D {delay}", "dnsize -D {delay}"]

#: Scripts for abc; {delay} is the target in ps. No script is the best for every netlist, and the
#: luck of one moves a clock by several percent: each unit is given all, and keeps its fastest.
RECIPES = {
    "twice": [*_START, *_MAP, *_AGAIN, *_SIZE],
    "thrice": [*_START, *_MAP, *_AGAIN, *_AGAIN, *_SIZE],
    "depth": [*_START, "if -g -K 6 -C 8", "strash", *_MAP, *_SIZE],
}

_SCRIPT = """\
read_verilog {source}
hierarchy -check -top {top}
proc -norom
flatten
opt_expr
opt_clean
opt -nodffe -nosdff
wreduce
peepopt
opt_clean
alumacc
opt
opt_dff
opt -nosdff
{gating}
opt -fast -full -nosdff
maccmap
opt -fast -nosdff
techmap
opt -fast -nosdff
dfflegalize -cell $_DFF_P_ 01 -cell $_DLATCH_P_ x
opt -fast -nodffe -nosdff
dfflibmap -liberty {library}
opt_clean
abc -liberty {library} -script {abc} -constr {constraints}
{ties}
opt_clean -purge
setundef -zero
stat -liberty {library}
write_json {netlist}
"""

#: Registers of at least this many bits with an enable get a clock gate.
GATING_WIDTH = 4

_GATING_MAP = """\
(* techmap_celltype = "$dffe" *)
module gate_dffe (CLK, EN, D, Q);
  parameter WIDTH = 1;
  parameter CLK_POLARITY = 1'b1;
  parameter EN_POLARITY = 1'b1;
  input CLK, EN;
  input [WIDTH-1:0] D;
  output [WIDTH-1:0] Q;
  wire _TECHMAP_FAIL_ = WIDTH < {width} || !CLK_POLARITY;
  wire enable = EN_POLARITY ? EN : ~EN;
  wire gated;
{gate}
  \\$dff #(.WIDTH(WIDTH), .CLK_POLARITY(1'b1)) ff (.CLK(gated), .D(D), .Q(Q));
endmodule

(* techmap_celltype = "$sdffe $sdffce" *)
module gate_sdffe (CLK, EN, SRST, D, Q);
  parameter _TECHMAP_CELLTYPE_ = "";
  parameter WIDTH = 1;
  parameter CLK_POLARITY = 1'b1;
  parameter EN_POLARITY = 1'b1;
  parameter SRST_POLARITY = 1'b1;
  parameter SRST_VALUE = 0;
  input CLK, EN, SRST;
  input [WIDTH-1:0] D;
  output [WIDTH-1:0] Q;
  wire _TECHMAP_FAIL_ = WIDTH < {width} || !CLK_POLARITY;
  wire on = EN_POLARITY ? EN : ~EN;
  wire zero = SRST_POLARITY ? SRST : ~SRST;
  // In the first the reset acts without the enable, in the second only with it.
  wire enable = _TECHMAP_CELLTYPE_ == "$sdffe" ? on | zero : on;
  wire [WIDTH-1:0] next = zero ? SRST_VALUE : D;
  wire gated;
{gate}
  \\$dff #(.WIDTH(WIDTH), .CLK_POLARITY(1'b1)) ff (.CLK(gated), .D(next), .Q(Q));
endmodule
"""


@dataclass(frozen=True)
class Technology:
    """A prepared library: text for synthesis, tables for timing and power.

    Attributes:
        name: Library name.
        text: Liberty text without the cells that synthesis must not use.
        library: Its tables; all cells.
        gate: Body of a clock gate, with ``enable``, ``CLK`` and ``gated``.
    """

    name: str
    text: str
    library: liberty.Library
    gate: str


def prepare(path: Path) -> Technology:
    """Read a library and choose its clock gate.

    Raises:
        LibertyError: If the file is missing or no usable library.
    """
    text = liberty.read_text(path)
    library = liberty.load(text)
    # A wire load would add guessed wires to some libraries and none to others.
    text = re.sub(r"^\s*default_wire_load\w*\s*:[^;]*;\s*$", "", text, flags=re.M)
    return Technology(library.name, _drop_cells(text), library, _gate(library))


def _drop_cells(text: str) -> str:
    kept, position = [], 0
    for match in re.finditer(r'^[ \t]*cell\s*\(\s*"?([^")\s]+)"?\s*\)\s*\{', text, flags=re.M):
        if match.start() < position or not _AVOID.search(match[1]):
            continue
        kept.append(text[position : match.start()])
        position = _closing_brace(text, match.end())
    kept.append(text[position:])
    return "".join(kept)


def _closing_brace(text: str, start: int) -> int:
    depth, i = 1, start
    for match in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        i = match.end()
        if depth == 0:
            break
    return i


def _gate(library: liberty.Library) -> str:
    """The smallest clock gate of the library; else one of a latch, an inverter and an AND gate."""
    gates = [
        c for c in library.cells.values()
        if c.clock_gate and len(c.inputs) == 2 and len(c.outputs) == 1
    ]  # fmt: skip
    if gates:
        cell = min(gates, key=lambda c: c.area)
        clock = next(p.name for p in cell.inputs if p.name.startswith("CLK") or p.name == "CP")
        enable = next(p.name for p in cell.inputs if p.name != clock)
        out = cell.outputs[0].name
        return f"  {cell.name} gate (.{clock}(CLK), .{enable}(enable), .{out}(gated));"
    latch = next(
        (c for c in library.cells.values()
         if c.sequential and c.sequential.kind == "latch" and len(c.inputs) == 2), None,
    )  # fmt: skip
    if latch is None or latch.sequential is None:
        raise liberty.LibertyError(
            f"{library.name}: expected a clock gate or a latch, found neither; run with gating off"
        )
    data, opens = latch.sequential.data, latch.sequential.clock
    return (
        "  wire low = ~CLK, held;\n"
        f"  {latch.name} latch (.{opens}(low), .{data}(enable), "
        f".{latch.outputs[0].name}(held));\n"
        "  assign gated = CLK & held;"
    )


def synthesize(
    source: str,
    top: str,
    technology: Technology,
    period: float,
    *,
    recipe: str = "twice",
    gating: bool = True,
    cache: Cache,
) -> tuple[str, bool]:
    """Map Verilog to the library.

    Args:
        source: Verilog text.
        top: Top module.
        technology: The library.
        period: Target for abc [ns].
        recipe: Name in `RECIPES`.
        gating: Insert clock gates at registers with enables.
        cache: Where results are kept.

    Returns:
        yosys' JSON netlist, and whether it came from the cache.

    Raises:
        ToolError: If yosys is missing or fails.
    """
    tools.find("yosys")
    script = "\n".join([*RECIPES[recipe], ""]).format(delay=f"{period * 1000:.0f}")
    inputs = [source, top, technology.text, str(gating), _SCRIPT, script,
              _GATING_MAP, technology.gate, tools.version("yosys")]  # fmt: skip
    return cache.text("synthesis", inputs, lambda: _run(source, top, technology, script, gating))


def _run(source: str, top: str, technology: Technology, abc: str, gating: bool) -> str:
    with tempfile.TemporaryDirectory(prefix="l1bn-") as name:
        folder = Path(name)
        (folder / "source.v").write_text(source)
        (folder / "cells.lib").write_text(technology.text)
        (folder / "abc.script").write_text(abc)
        (folder / "constraints").write_text(_constraints(technology.library))
        (folder / "gating.v").write_text(
            _GATING_MAP.format(width=GATING_WIDTH, gate=technology.gate)
        )
        script = _SCRIPT.format(
            source="source.v", top=top, library="cells.lib", abc="abc.script",
            constraints="constraints", netlist="netlist.json",
            gating="techmap -map gating.v" if gating else "", ties="",
        )  # fmt: skip
        (folder / "script.ys").write_text(script)
        tools.run(["yosys", "-q", "-s", "script.ys"], folder)
        text = (folder / "netlist.json").read_text()
    design = json.loads(text)
    module = design["modules"][top]
    # Only what timing and power need: port, cell and net names.
    slim = {
        "ports": module["ports"],
        "cells": {
            n: {"type": c["type"], "connections": c["connections"]}
            for n, c in module["cells"].items()
        },
        "netnames": {n: {"bits": w["bits"]} for n, w in module["netnames"].items() if n[0] != "$"},
    }
    return json.dumps({"modules": {top: slim}})


def _constraints(library: liberty.Library) -> str:
    """Driving cell and output load for abc."""
    inverters = [
        c.name for c in library.cells.values()
        if len(c.pins) >= 2 and len(c.inputs) == 1 and len(c.outputs) == 1
        and c.sequential is None and re.search(r"INVX2$|inv_2$", c.name)
    ]  # fmt: skip
    cell = inverters[0] if inverters else next(iter(library.cells))
    return f"set_driving_cell {cell}\nset_load 0.02\n"
