"""Icarus Verilog for a part: its Verilog or its netlist on vectors, judged clock by clock."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import Shape
from amaranth.lib import wiring

from l1bn import tools
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.parts import PartName, build, ports
from l1bn.rtl.verify.part_vectors import Clock
from l1bn.rtl.verify.testbench import SimulationError, Transitions, count_transitions

_BENCH = """\
`timescale 1ns/1ps
module bench;
  localparam real PERIOD = {period};
  reg clk = 0, rst = 1, counting = 0;
  initial begin
    #(8 * PERIOD);
    forever #(PERIOD / 2) clk = ~clk;
  end
  // Inputs, expected outputs, and which of their bits are judged.
  reg [{inputs}+2*{outputs}-1:0] memory [0:{clocks}];
  reg [{inputs}-1:0] in = 0;
  reg [{outputs}-1:0] want = 0, mask = 0;
  wire [{outputs}-1:0] out;
  {top} dut (.clk(clk), .rst(rst), {ports});
  integer index = 0, errors = 0;
  initial begin
    $readmemh("memory.hex", memory);
{annotate}
    repeat (4) @(posedge clk);
    #(PERIOD * 0.02) rst = 0;
{dump}
    {{mask, want, in}} = memory[0];
    counting = 1;
  end
  always @(posedge clk) if (counting) begin
    if (((out ^ want) & mask) !== {outputs}'b0) begin
      errors = errors + 1;
      if (errors < 5) $display("MISMATCH clock %0d: expected %h, got %h, judged %h",
                               index, want, out, mask);
    end
    index = index + 1;
    if (index == {clocks}) begin
      $display("RESULT errors %0d", errors);
      $finish;
    end
    #(PERIOD * 0.02) {{mask, want, in}} = memory[index];
  end
endmodule
"""


def verilog_text(name: PartName, config: UnitConfig) -> str:
    """Verilog of a part, named after it and the unit."""
    part = build(name, config)
    text = verilog.convert(
        part, name=top_name(name, config), strip_internal_attrs=True, emit_src=False
    )
    return "\n".join(line for line in text.splitlines() if not line.startswith("/* Generated"))


def top_name(name: PartName, config: UnitConfig) -> str:
    """Name of the top module of a part."""
    return f"{name}_{config.norm}_w{config.width}_n{config.elements}"


def _fields(name: PartName, config: UnitConfig) -> tuple[dict[str, int], dict[str, int]]:
    """Widths [bit] of the inputs and of the outputs, bit 0 first."""
    groups: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for port, member in ports(name, config).items():
        groups[member.flow is wiring.Out][port] = Shape.cast(member.shape).width
    return groups


def memory(name: PartName, config: UnitConfig, clocks: Sequence[Clock]) -> list[int]:
    """A word per clock: inputs, expected outputs, mask."""
    inputs, outputs = _fields(name, config)
    held = dict.fromkeys(inputs, 0)
    words = []
    for clock in clocks:
        held |= clock.inputs
        mask = {port: -1 if port in clock.outputs else 0 for port in outputs}
        word = shift = 0
        for widths, values in ((inputs, held), (outputs, clock.outputs), (outputs, mask)):
            for port, bits in widths.items():
                word |= (values.get(port, 0) & ((1 << bits) - 1)) << shift
                shift += bits
        words.append(word)
    return words


def key(name: PartName, config: UnitConfig, clocks: Sequence[Clock]) -> str:
    """Text that changes with anything a run depends on beside its sources and period."""
    return json.dumps([_BENCH, memory(name, config, clocks)])


def run(
    name: PartName,
    config: UnitConfig,
    sources: Iterable[str],
    clocks: Sequence[Clock],
    *,
    period: float = 10.0,
    delays: str | None = None,
) -> Transitions:
    """Compile, simulate and judge; the transitions of every net of the part.

    Raises:
        SimulationError: If a judged bit differs.
        ToolError: If Icarus Verilog is missing or fails.
    """
    words = memory(name, config, clocks)
    inputs, outputs = _fields(name, config)
    wide = sum(inputs.values()) + 2 * sum(outputs.values())
    with tempfile.TemporaryDirectory(prefix="l1bn-") as folder_name:
        folder = Path(folder_name)
        digits = -(-wide // 4)
        text = "".join(f"{w:0{digits}x}\n" for w in [*words, 0])
        (folder / "memory.hex").write_text(text)
        (folder / "bench.v").write_text(_bench(name, config, len(words), period, delays))
        for number, source in enumerate(sources):
            (folder / f"source{number}.v").write_text(source)
        if delays is not None:
            (folder / "delays.sdf").write_text(delays)
        files = sorted(p.name for p in folder.glob("*.v"))
        specify = ["-gspecify"] if delays is not None else []
        tools.run(
            ["iverilog", "-g2005-sv", *specify, "-Ttyp", "-s", "bench", "-o", "bench", *files],
            folder,
        )
        output = tools.run(["vvp", "-n", "bench"], folder).output
        verdict = re.search(r"RESULT errors (\d+)", output)
        if verdict is None or int(verdict[1]):
            lines = [line for line in output.splitlines() if "MISMATCH" in line]
            raise SimulationError(
                f"{top_name(name, config)}: expected no errors\n" + "\n".join(lines)
            )
        return count_transitions(folder / "bench.vcd")["SCALARS"]


def _bench(
    name: PartName, config: UnitConfig, clocks: int, period: float, delays: str | None
) -> str:
    inputs, outputs = _fields(name, config)
    wires = []
    for bus, widths in (("in", inputs), ("out", outputs)):
        low = 0
        for port, bits in widths.items():
            wires.append(f".{port}({bus}[{low + bits - 1}:{low}])")
            low += bits
    return _BENCH.format(
        period=period,
        inputs=sum(inputs.values()),
        outputs=sum(outputs.values()),
        clocks=clocks,
        top=top_name(name, config),
        ports=", ".join(wires),
        annotate='    $sdf_annotate("delays.sdf", dut);' if delays is not None else "",
        dump='    $dumpfile("bench.vcd"); $dumpvars(1, bench.dut, counting);',
    )
