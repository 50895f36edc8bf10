"""Synthesis with yosys and abc: Verilog in, a netlist of library cells out."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from l1bn import tools
from l1bn.rtl.cache import Cache
from l1bn.rtl.silicon import liberty
from l1bn.rtl.silicon.liberty_syntax import LibertyError
from l1bn.rtl.silicon.library import Cell, Library, is_whole, merge

#: Cells that synthesis must not use: level shifters, isolation, probes, delay and clock cells, and
#: whatever the library marks itself.
_AVOID = re.compile(
    r"lpflow|probe|macro|dlygate|dlymetal|clkdly|clkinvlp|clkbuf|clkinv|CLKBUF|bufbuf|bufinv|"
    r"einv|ebuf|TBUF|sighold|antenna|edf|sdf|sedf|_dlxbn|_dlxbp|decap|fill|__dly[a-d]_|__hold|"
    r"^HB\dxp",
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
{map}
opt_clean -purge
setundef -zero
stat -liberty {library}
write_json {netlist}
"""

#: How abc is called: the script with a driving cell and a load, the script alone, yosys' own.
#: Where it dies of one (a library may bring it down), the next is tried.
_MAPS = (
    "abc -liberty cells.lib -script abc.script -constr constraints",
    "abc -liberty cells.lib -script abc.script",
    "abc -liberty cells.lib",
)

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
    library: Library
    gate: str


def prepare(*paths: Path) -> Technology:
    """Read a library, of one file or several, and choose its clock gate.

    Raises:
        LibertyError: If a file is missing or no usable library.
    """
    return _prepare([liberty.read_text(path) for path in paths])


def prepare_all(paths: Sequence[Path]) -> list[Technology]:
    """A technology for each library among some files.

    A file without an inverter, a gate or a flip-flop is a part of a library: all such parts belong
    together.

    Raises:
        LibertyError: If a file is missing, or parts make no usable library.
    """
    texts = [liberty.read_text(path) for path in paths]
    loaded = [liberty.load(text) for text in texts]
    groups: list[list[int]] = []
    parts: list[int] = []
    for number, library in enumerate(loaded):
        if is_whole(library):
            groups.append([number])
            continue
        if not parts:
            groups.append(parts)
        parts.append(number)
    return [_technology([texts[i] for i in group], [loaded[i] for i in group]) for group in groups]


def _prepare(texts: list[str]) -> Technology:
    return _technology(texts, [liberty.load(text) for text in texts])


def _technology(texts: list[str], loaded: list[Library]) -> Technology:
    library = merge(loaded)
    if not is_whole(library):
        raise LibertyError(
            f"{library.name}: expected an inverter, a gate of two inputs and a flip-flop (ff with "
            f"clocked_on and next_state) among {len(library.cells)} usable cells" + library.excuse()
        )
    unused = {c.name for c in library.cells.values() if c.dont_use} | set(library.left_out)
    dropped = [_drop_cells(text, unused) for text in texts]
    # Cells of the further files go to the end of the first: their templates are its own.
    bodies = [_cells_text(text) for text in dropped[1:]]
    text = dropped[0]
    if bodies:
        end = text.rindex("}")
        text = "\n".join([text[:end], *bodies, text[end:]])
    # A wire load would add guessed wires to some libraries and none to others.
    text = re.sub(r"^\s*default_wire_load\w*\s*:[^;]*;\s*$", "", text, flags=re.M)
    return Technology(library.name, text, library, _gate(library))


_CELL = re.compile(r'^[ \t]*cell\s*\(\s*"?([^")\s]+)"?\s*\)\s*\{', re.M)


def _drop_cells(text: str, unused: Collection[str]) -> str:
    kept, position = [], 0
    for match in _CELL.finditer(text):
        if match.start() < position or not (_AVOID.search(match[1]) or match[1] in unused):
            continue
        kept.append(text[position : match.start()])
        position = _closing_brace(text, match.end())
    kept.append(text[position:])
    return "".join(kept)


def _cells_text(text: str) -> str:
    """The cells of a library, without its head."""
    return "\n".join(text[m.start() : _closing_brace(text, m.end())] for m in _CELL.finditer(text))


def _closing_brace(text: str, start: int) -> int:
    depth, i = 1, start
    for match in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        i = match.end()
        if depth == 0:
            break
    return i


def _gate(library: Library) -> str:
    """The smallest clock gate of the library; else one of a latch, an inverter and an AND gate."""
    # Often marked dont_use, to keep mappers off them: here they are asked for by name.
    gates = [
        c for c in library.cells.values()
        if c.clock_gate.startswith("latch_posedge") and len(c.outputs) == 1
    ]  # fmt: skip
    if gates:
        # One without a test pin, where there is one: the pin would be tied.
        cell = min(gates, key=lambda c: (len(c.inputs), c.area))
        pins = {"clock": "CLK", "enable": "enable", "out": "gated"}
        wires = [f".{cell.pin_for(role).name}({net})" for role, net in pins.items()]
        wires += [f".{p.name}(1'b0)" for p in cell.inputs if p.role == "test"]
        return f"  {cell.name} gate ({', '.join(wires)});"
    latches = [
        c for c in library.cells.values()
        if c.sequential and c.sequential.kind == "latch" and len(c.inputs) == 2
        and {c.sequential.data, c.sequential.clock} == {p.name for p in c.inputs}
    ]  # fmt: skip
    if not latches or latches[0].sequential is None:
        raise LibertyError(
            f"{library.name}: expected a cell with clock_gating_integrated_cell latch_posedge, or "
            "a latch whose data_in and enable are its two pins; found neither; run with gating off"
        )
    latch, state = latches[0], latches[0].sequential
    return (
        "  wire low = ~CLK, held;\n"
        f"  {latch.name} latch (.{state.clock}(low), .{state.data}(enable), "
        f".{_true_output(latch)}(held));\n"
        "  assign gated = CLK & held;"
    )


def _true_output(cell: Cell) -> str:
    """The output that shows the state, not its complement.

    Raises:
        LibertyError: If there is none.
    """
    state = cell.sequential.state if cell.sequential else ""
    for pin in cell.outputs:
        if pin.function == state:
            return pin.name
    raise LibertyError(f"{cell.name}: expected an output with the function {state!r}")


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
        recipe: Name in ``RECIPES``.
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
        last: tools.ToolError | None = None
        for call in _MAPS:
            script = _SCRIPT.format(
                source="source.v", top=top, library="cells.lib", map=call, netlist="netlist.json",
                gating="techmap -map gating.v" if gating else "",
            )  # fmt: skip
            (folder / "script.ys").write_text(script)
            try:
                tools.run(["yosys", "-q", "-s", "script.ys"], folder)
                break
            except tools.ToolError as error:
                last = last or error
        else:
            assert last is not None
            raise last
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


def _constraints(library: Library) -> str:
    """Driving cell and output load [pF] for abc: the second smallest inverter."""
    inverters = [c.name for c in library.inverters() if not _AVOID.search(c.name)]
    cell = (inverters or [library.inverters()[0].name])[:2][-1]
    return f"set_driving_cell {cell}\nset_load {library.conditions.output_load:g}\n"
