"""Synthesis for an FPGA, a frame of registers around the unit, and its clock once routed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from l1bn import tools
from l1bn.rtl.cache import Cache
from l1bn.rtl.fpga.family import Family, Target
from l1bn.rtl.fpga.netlist import FpgaNetlist

#: Every unit is placed for a clock that none reaches: timing then decides alone.
TARGET_MHZ = 250

# A unit has more ports than a package has pins. Registers stand at each, filled from one pin and
# folded into another, so that paths to and from the ports count too.
_FRAME = """\
module frame (input clk, input d, output q);
  reg [{inputs}-1:0] in;
  reg [{outputs}-1:0] folded;
  wire [{outputs}-1:0] out;
  assign q = folded[{outputs}-1];
  always @(posedge clk) begin
    in <= {{in[{inputs}-2:0], d}};
    folded <= out ^ {{folded[{outputs}-2:0], 1'b0}};
  end
  {top} unit (.clk(clk), {connections});
endmodule
"""

_JOIN = """\
read_verilog -lib {cells}
proc =*
read_json unit.json
read_json frame.json
hierarchy -top frame
flatten
opt_clean -purge
write_json whole.json
"""


def synthesize(
    source: str, top: str, family: Family, target: Target, *, cache: Cache
) -> FpgaNetlist:
    """Map Verilog to the cells of a family.

    Args:
        source: Verilog text.
        top: Top module.
        family: The family.
        target: The device, and whether its multipliers may be used.
        cache: Where results are kept.

    Raises:
        ToolError: If yosys is missing or fails.
    """
    options = " ".join(target.synthesize)
    command = f"synth_{family.name} {options} -top {top} -json unit.json"

    def compute() -> str:
        with tempfile.TemporaryDirectory(prefix="l1bn-") as name:
            folder = Path(name)
            (folder / "unit.v").write_text(source)
            tools.run(["yosys", "-q", "-p", f"read_verilog unit.v; {command}"], folder)
            # The library's cells come along as empty modules; only the unit is wanted.
            modules = json.loads((folder / "unit.json").read_text())["modules"]
            return json.dumps({"modules": {top: modules[top]}})

    text, _ = cache.text("fpga", [source, command, tools.version("yosys")], compute)
    return FpgaNetlist(text, top, family)


def routed_mhz(netlist: FpgaNetlist, target: Target, *, seed: int, cache: Cache) -> float:
    """Highest clock of a unit in its frame, placed and routed [MHz].

    Args:
        netlist: The unit.
        target: The device.
        seed: Of the placer.
        cache: Where results are kept.

    Raises:
        ToolError: If a program is missing or fails, or the unit does not fit.
    """
    family = netlist.family
    program = family.router()
    options = [*target.place, "--seed", str(seed), "--freq", str(TARGET_MHZ)]
    frame = _frame(netlist)
    unit = json.dumps({"modules": {netlist.top: {"ports": netlist.ports, "cells": netlist.cells,
                                                 "netnames": {}}}})  # fmt: skip

    def compute() -> str:
        with tempfile.TemporaryDirectory(prefix="l1bn-") as name:
            folder = Path(name)
            (folder / "whole.json").write_text(_framed(netlist, unit, frame, cache))
            files = ["--json", "whole.json", "--report", "report.json"]
            tools.run([program, "-q", "--timing-allow-fail", *options, *files], folder)
            clocks = json.loads((folder / "report.json").read_text())["fmax"]
            return str(min(clock["achieved"] for clock in clocks.values()))

    inputs = [unit, frame, _JOIN, *options, program, tools.version(program)]
    return float(cache.text("routed", inputs, compute)[0])


def _framed(netlist: FpgaNetlist, unit: str, frame: str, cache: Cache) -> str:
    """The unit in its frame, as yosys' JSON: one design for every seed."""
    family = netlist.family

    def compute() -> str:
        with tempfile.TemporaryDirectory(prefix="l1bn-") as name:
            folder = Path(name)
            (folder / "unit.json").write_text(unit)
            (folder / "frame.v").write_text(frame)
            (folder / "stub.v").write_text(_stub(netlist))
            synth = f"synth_{family.name} -top frame -json frame.json"
            tools.run(
                ["yosys", "-q", "-p", f"read_verilog -lib stub.v; read_verilog frame.v; {synth}"],
                folder,
            )
            _drop_stub(folder / "frame.json", netlist.top)
            (folder / "join.ys").write_text(_JOIN.format(cells=family.cells))
            tools.run(["yosys", "-q", "-s", "join.ys"], folder)
            return (folder / "whole.json").read_text()

    return cache.text("framed", [unit, frame, _JOIN, tools.version("yosys")], compute)[0]


def _sizes(netlist: FpgaNetlist) -> dict[str, tuple[str, int]]:
    """Direction and bits of each port but the clock."""
    ports = netlist.ports.items()
    return {n: (p["direction"], len(p["bits"])) for n, p in ports if n != "clk"}


def _frame(netlist: FpgaNetlist) -> str:
    low = {"input": 0, "output": 0}
    wires = []
    for name, (direction, bits) in _sizes(netlist).items():
        bus = "in" if direction == "input" else "out"
        wires.append(f".{name}({bus}[{low[direction] + bits - 1}:{low[direction]}])")
        low[direction] += bits
    return _FRAME.format(
        inputs=low["input"], outputs=low["output"], top=netlist.top, connections=", ".join(wires)
    )


def _stub(netlist: FpgaNetlist) -> str:
    """The unit's ports without its inside."""
    ports = [f"{d} [{bits - 1}:0] {name}" for name, (d, bits) in _sizes(netlist).items()]
    return f"module {netlist.top} (input clk, {', '.join(ports)});\nendmodule\n"


def _drop_stub(path: Path, top: str) -> None:
    """Leave the frame alone in a design: the unit comes from elsewhere."""
    modules = json.loads(path.read_text())["modules"]
    path.write_text(json.dumps({"modules": {"frame": modules["frame"]}}))
    assert any(cell["type"] == top for cell in modules["frame"]["cells"].values())
