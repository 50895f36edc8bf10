"""Icarus Verilog: run emitted Verilog or a gate-level netlist on channels, judged bit by bit."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l1bn import tools
from l1bn.errors import UserError
from l1bn.fixed_point.formats import IntArray
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit import emit
from l1bn.rtl.unit.emit.interface import Interface, Stream
from l1bn.rtl.unit.ports import Phase
from l1bn.rtl.verify.schedule import Step
from l1bn.rtl.verify.simulate import Order, steps
from l1bn.rtl.verify.stimulus import Channels, expected

#: Width [bit] and words of each memory of the bench, by name.
Memories = dict[str, tuple[int, list[int]]]

_BENCH = """\
`timescale 1ns/1ps
module bench;
  localparam real PERIOD = {period};
  localparam integer ELEMENTS = {elements}, COMMANDS = {commands}, RESULTS = {results};
  localparam integer STALL = {stall};  // of 256
  reg clk = 0, rst = {reset_on};
  // The first edge waits until the power-up state has settled through the gates.
  initial begin
    #(8 * PERIOD);
    forever #(PERIOD / 2) clk = ~clk;
  end

  reg [{element_bits}-1:0] element_memory [0:ELEMENTS-1];
  reg [{command_bits}-1:0] command_memory [0:COMMANDS-1];
  reg [{result_bits}-1:0] result_memory [0:RESULTS-1];
  reg [{scalar_bits}-1:0] scalar_memory [0:COMMANDS-1];
  // Bit 0: counted; 1: store the context; 2: restore one; then the channel of each, 8 bits.
  reg [18:0] control_memory [0:COMMANDS-1];
  reg [{context_bits}-1:0] context_memory [0:255];
  reg [{context_bits}-1:0] restore = 0;
  reg [18:0] control = 0;
  reg counting = 0;
  // Bit {element_bits} - 1 is TLAST where the stream has one.
  reg [{element_bits}-1:0] element_payload;
  reg [{command_bits}-1:0] command_payload;
  reg element_valid = 0, command_valid = 0, result_ready = 0;
  wire [{result_bits}-1:0] result_payload;
  wire [{dgamma_bits}-1:0] dgamma;
  wire [{dbeta_bits}-1:0] dbeta;
  wire [{context_bits}-1:0] snapshot;
  wire [2:0] phase;
  wire element_ready, command_ready, result_valid;

  {top} dut (
{connections}
  );

  integer element_index = 0, command_index = 0, result_index = 0, errors = 0;
  integer clocks = 0, all_clocks = 0;
  integer seed = {seed};
  reg started = 0;

  initial begin
    $readmemh("elements.hex", element_memory);
    $readmemh("commands.hex", command_memory);
    $readmemh("results.hex", result_memory);
    $readmemh("scalars.hex", scalar_memory);
    $readmemh("controls.hex", control_memory);
    element_payload = element_memory[0];
    command_payload = command_memory[0];
    control = control_memory[0];
{annotate}
    repeat (4) @(posedge clk);
    #(PERIOD * {skew}) rst = {reset_off};
    element_valid = 1; command_valid = 1; result_ready = 1;
    started = 1;
{dump}
    counting = control[0];
  end

  // Everything is sampled at the edge and changed a little after it.
  always @(posedge clk) if (started) begin : judge
    reg took_element, took_command, took_result;
    took_element = element_valid & element_ready;
    took_command = command_valid & command_ready;
    took_result = result_valid & result_ready;
    clocks = clocks + counting;
    all_clocks = all_clocks + 1;
    if (took_result) begin
      if (result_index >= RESULTS || result_payload !== result_memory[result_index]) begin
        errors = errors + 1;
        if (errors < 5) $display("MISMATCH result %0d: expected %h, got %h", result_index,
                                 result_memory[result_index], result_payload);
      end
      result_index = result_index + 1;
    end
    if (took_command && scalar_memory[command_index][0]
        && {{dbeta, dgamma}} !== scalar_memory[command_index][{scalar_bits}-1:1]) begin
      errors = errors + 1;
      $display("MISMATCH scalars %0d: expected %h, got %h", command_index,
               scalar_memory[command_index][{scalar_bits}-1:1], {{dbeta, dgamma}});
    end
    if (took_command && control[1]) context_memory[control[10:3]] = snapshot;
    if (took_command) command_index = command_index + 1;
    if (took_element) element_index = element_index + 1;
    if ((command_index == COMMANDS && result_index >= RESULTS)
        || all_clocks > {limit} || errors > 20) begin
      $display("RESULT clocks %0d elements %0d results %0d commands %0d errors %0d",
               clocks, element_index, result_index, command_index, errors);
      $finish;
    end
    #(PERIOD * {skew});
    if (command_index == COMMANDS) command_valid = 0;
    if (took_command && command_index < COMMANDS) begin
      command_payload = command_memory[command_index];
      control = control_memory[command_index];
      counting = control[0];
      if (control[2]) restore = context_memory[control[18:11]];
    end
    if (took_element && element_index < ELEMENTS)
      element_payload = element_memory[element_index];
    if (took_element || !element_valid) element_valid = ($random(seed) & 255) >= STALL;
    result_ready = ($random(seed) & 255) >= STALL;
  end
endmodule
"""


class SimulationError(UserError):
    """A simulation that failed or disagrees with the integer model."""


@dataclass(frozen=True)
class Transitions:
    """Rising and falling transitions of each net."""

    rises: dict[str, int]
    falls: dict[str, int]


@dataclass(frozen=True)
class Activity:
    """What a simulation did.

    Attributes:
        clocks: Clocks from the first command to the end of the last.
        phases: Transitions of the nets of the unit by phase, glitches included; empty unless asked
            for.
    """

    clocks: int
    phases: dict[str, Transitions]


def memories(
    config: UnitConfig, steps: Sequence[Step], boundary: Interface | None = None
) -> Memories:
    """Width and words of each memory of the bench."""
    boundary = boundary or emit.describe_interface(config)
    streams, words = boundary.streams, boundary.words
    command = streams["command"].word
    dgamma, dbeta = words["dgamma"].width, words["dbeta"].width
    elements: list[int] = []
    commands: list[int] = []
    results: list[int] = []
    scalars: list[int] = []
    controls: list[int] = []
    # What a pass does not use stays as it was: a feeder has no reason to move it.
    held: dict[str, int] = {}
    n = next((step.command["count"] for step in steps if "count" in step.command), config.elements)
    orders: dict[str, int] = {}
    for step in steps:
        for number, (_, fields) in enumerate(step.elements, 1):
            held |= fields
            last = number % n == 0
            elements.append(_beat(streams["element"], held, last=last))
        code = boundary.operations[step.operation.name]
        orders |= {**step.command, "operation": code}
        commands.append(command.pack(orders))
        results += [
            _beat(streams["result"], fields, last=bool(fields["last"])) for fields in step.results
        ]
        scalars.append(0)
        if step.scalars is not None:
            values = [
                v & ((1 << bits) - 1) for v, bits in zip(step.scalars, (dgamma, dbeta), strict=True)
            ]
            scalars[-1] = (values[1] << dgamma | values[0]) << 1 | 1
        controls.append(_control(step))
    return {
        "elements": (_beat_width(streams["element"]), elements),
        "commands": (command.width, commands),
        "results": (_beat_width(streams["result"]), results),
        "scalars": (dgamma + dbeta + 1, scalars),
        "controls": (19, controls),
    }


def _beat(stream: Stream, fields: dict[str, int], *, last: bool) -> int:
    """The word of a stream, with its mark of the last element on top where that is a port."""
    mark = int(last and bool(stream.last)) << stream.word.width
    return stream.word.pack(fields) | mark


def _beat_width(stream: Stream) -> int:
    return stream.word.width + bool(stream.last)


def _control(step: Step) -> int:
    """What the bench itself does with a command."""
    word = int(step.counted)
    for bit, channel in enumerate((step.saves, step.loads)):
        if channel is not None:
            word |= 1 << (1 + bit) | channel << (3 + 8 * bit)
    return word


def run(
    config: UnitConfig,
    sources: Iterable[str],
    channels: Channels,
    *,
    period: float = 10.0,
    top: str | None = None,
    delays: str | None = None,
    activity: bool = False,
    phase_nets: tuple[str, ...] = (),
    stall: float = 0.0,
    seed: int = 1,
    order: Order = "natural",
    boundary: Interface | None = None,
) -> Activity:
    """Compile, simulate, judge, and count transitions.

    Args:
        config: The unit.
        sources: Verilog texts: the unit, and cell models if it is a netlist.
        channels: What to feed.
        period: Clock period [ns].
        top: Module name; None takes the unit's.
        delays: SDF text to annotate.
        activity: Count the transitions of every net of the top module.
        phase_nets: Nets of the port ``phase``, bit 0 first, to split the transitions by.
        stall: Probability that the bench holds an element or a result back.
        seed: Of the stalls.
        order: As in ``l1bn.rtl.verify.simulate``.
        boundary: Ports and fields of the top module; None takes the bare unit's.

    Raises:
        SimulationError: If a bit differs from the integer model, or the unit hangs.
        ToolError: If Icarus Verilog is missing or fails.
    """
    tools.find("iverilog")
    boundary = boundary or emit.describe_interface(config)
    ordered = steps(config, channels, list(expected(config, channels)), order)
    words = memories(config, ordered, boundary)
    counts = {name: len(w) for name, (_, w) in words.items()}
    with tempfile.TemporaryDirectory(prefix="l1bn-") as name:
        folder = Path(name)
        for memory, (bits, content) in words.items():
            digits = -(-bits // 4)
            text = "".join(f"{w:0{digits}x}\n" for w in content)
            (folder / f"{memory}.hex").write_text(text)
        (folder / "bench.v").write_text(
            _bench(
                boundary,
                words,
                counts,
                top=top or boundary.module,
                period=period,
                annotated=delays is not None,
                activity=activity,
                stall=stall,
                seed=seed,
            )
        )
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
        clocks = _judge(output, counts)
        phases = count_transitions(folder / "bench.vcd", phase_nets) if activity else {}
    return Activity(clocks, phases)


def key(config: UnitConfig, channels: Channels, order: Order) -> str:
    """Text that changes with anything a run depends on beside its sources, period and stalls."""
    words = memories(config, steps(config, channels, list(expected(config, channels)), order))
    return json.dumps([_BENCH, words])


def _bench(
    boundary: Interface,
    words: Memories,
    counts: dict[str, int],
    *,
    top: str,
    period: float,
    annotated: bool,
    activity: bool,
    stall: float,
    seed: int,
) -> str:
    dump = '    $dumpfile("bench.vcd"); $dumpvars(1, bench.dut, counting);' if activity else ""
    annotate = '    $sdf_annotate("delays.sdf", dut);' if annotated else ""
    return _BENCH.format(
        period=period,
        elements=counts["elements"],
        commands=counts["commands"],
        results=counts["results"],
        element_bits=words["elements"][0],
        command_bits=words["commands"][0],
        result_bits=words["results"][0],
        scalar_bits=words["scalars"][0],
        dgamma_bits=boundary.words["dgamma"].width,
        dbeta_bits=boundary.words["dbeta"].width,
        context_bits=boundary.words["snapshot"].width,
        reset_on=boundary.reset_level,
        reset_off=1 - boundary.reset_level,
        connections=_connections(boundary),
        top=top,
        stall=round(stall * 256),
        seed=seed,
        skew=0.02,
        limit=40 * counts["elements"] + 10_000,
        annotate=annotate,
        dump=dump,
    )


def _connections(boundary: Interface) -> str:
    """The ports of the unit, by name, to the wires of the bench."""
    wires = {boundary.clock: "clk", boundary.reset: "rst"}
    for name, stream in boundary.streams.items():
        size = stream.word.width
        payload = f"{name}_payload"
        wires[stream.word.port] = f"{payload}[{size - 1}:0]" if stream.last else payload
        wires |= {stream.valid: f"{name}_valid", stream.ready: f"{name}_ready"}
        if stream.last:
            wires[stream.last] = f"{payload}[{size}]"
    for name in ("phase", "snapshot", "restore", "dgamma", "dbeta"):
        wires[boundary.words[name].port] = name
    return ",\n".join(f"    .{port}({wire})" for port, wire in wires.items())


def _judge(output: str, counts: dict[str, int]) -> int:
    match = re.search(
        r"RESULT clocks (\d+) elements (\d+) results (\d+) commands (\d+) errors (\d+)", output
    )
    if match is None:
        raise SimulationError(f"the simulation ended without a verdict:\n{output[-2000:]}")
    clocks, elements, results, commands, errors = (int(v) for v in match.groups())
    done = (elements, results, commands)
    want = (counts["elements"], counts["results"], counts["commands"])
    if errors or done != want:
        lines = [line for line in output.splitlines() if "MISMATCH" in line][:5]
        raise SimulationError(
            f"expected (elements, results, commands) = {want} without errors, got {done} and "
            f"{errors} errors\n" + "\n".join(lines)
        )
    return clocks


def count_transitions(path: Path, phase_nets: tuple[str, ...] = ()) -> dict[str, Transitions]:
    """Transitions of each one-bit net in a VCD, by the phase that the unit shows.

    Args:
        path: The VCD. What happens while its variable ``counting`` is 0 is left out.
        phase_nets: Nets that hold the phase; without them everything is ``SCALARS``.
    """
    names: dict[bytes, str] = {}
    head, _, rest = path.read_bytes().partition(b"$enddefinitions $end")
    for line in head.splitlines():
        part = line.split()
        if len(part) >= 6 and part[0] == b"$var" and part[2] == b"1":
            names[part[3]] = part[4].decode()
    codes = {name: _code(key) for key, name in names.items()}
    # The initial values are no transitions, but they set the phase.
    initial, _, rest = rest.partition(b"$dumpvars")[2].partition(b"$end")
    bits = [codes[n] for n in (*phase_nets, "counting") if n in codes]
    changes = _changes(rest)
    high = set(_changes(initial).tolist())
    group = np.zeros(len(changes), dtype=np.int64)
    for bit, code in enumerate(bits):
        group += _levels(changes, code, 2 * code + 1 in high) << bit
    counting = 1 << len(phase_nets) if "counting" in codes else 0
    phases: dict[str, IntArray] = {}
    size = 2 * max(codes.values()) + 2
    for number in np.unique(group).tolist():
        if number >= counting:
            found = np.bincount(changes[group == number], minlength=size)
            phase = _phase_name(number - counting)
            phases[phase] = phases.get(phase, np.int64(0)) + found
    return {
        phase: Transitions(
            {name: int(found[2 * code + 1]) for name, code in codes.items()},
            {name: int(found[2 * code]) for name, code in codes.items()},
        )
        for phase, found in sorted(phases.items())
    }


def _code(key: bytes) -> int:
    """Number of an identifier of at most three characters."""
    return sum((c - 32) << (7 * i) for i, c in enumerate(key))


def _changes(text: bytes) -> IntArray:
    """One-bit changes of a VCD in order: twice the code of the variable, plus the value."""
    data = np.frombuffer(text + b"\n\0\0\0", dtype=np.uint8)
    starts = np.flatnonzero(data[:-4] == ord("\n")) + 1
    first = data[starts]
    is_change = (first == ord("0")) | (first == ord("1"))
    starts, first = starts[is_change], first[is_change]
    code = np.zeros(len(starts), dtype=np.int64)
    alive = np.ones(len(starts), dtype=bool)
    for i in range(3):
        letter = data[starts + 1 + i].astype(np.int64)
        alive &= letter > 32
        code += np.where(alive, letter - 32, 0) << (7 * i)
    return 2 * code + (first == ord("1"))


def _levels(changes: IntArray, code: int, initial: bool) -> IntArray:
    """Level of a variable after each change."""
    moved = np.flatnonzero(changes >> 1 == code)
    levels = np.concatenate(([int(initial)], changes[moved] & 1))
    edges = np.zeros(len(changes), dtype=np.int64)
    edges[moved] = np.diff(levels)
    return levels[0] + np.cumsum(edges)


def _phase_name(number: int) -> str:
    # While its bits change one by one, the phase may show a number that is none.
    return Phase(number).name if number in set(Phase) else Phase.SCALARS.name
