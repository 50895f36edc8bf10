"""Verilog models of library cells, and delays for them: from Liberty, so that all three agree."""

from __future__ import annotations

import re
from collections.abc import Iterable

from l1bn.rtl.liberty import Cell, Library
from l1bn.rtl.netlist import Netlist
from l1bn.rtl.timing import Timing, clock_nets

_TOKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[01]|[!'*&+|^() ]")


class FunctionError(ValueError):
    """A cell function that cannot be read."""


def verilog_function(text: str) -> str:
    """Liberty expression to Verilog: ! or ' for not, * & or a blank for and, + | for or, ^.

    Raises:
        FunctionError: If the expression does not parse.
    """
    tokens = [t for t in _TOKEN.findall(text) if t != " "]
    if "".join(tokens) != text.replace(" ", ""):
        raise FunctionError(f"cell function: cannot read {text!r}")
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def factor() -> str:
        token = take() if position < len(tokens) else ""
        if token == "!":
            return f"~{factor()}"
        if token == "(":
            inner = expression()
            if peek() != ")":
                raise FunctionError(f"cell function: expected ) in {text!r}")
            take()
            value = f"({inner})"
        elif re.match(r"[A-Za-z_]", token):
            value = token
        elif token in ("0", "1"):
            value = f"1'b{token}"
        else:
            raise FunctionError(f"cell function: unexpected {token!r} in {text!r}")
        while peek() == "'":
            take()
            value = f"(~{value})"
        return value

    def product() -> str:
        value = factor()
        while peek() and peek() not in ")+|^":
            if peek() in "*&":
                take()
            value += f" & {factor()}"
        return value

    def exclusive() -> str:
        value = product()
        while peek() == "^":
            take()
            value = f"({value}) ^ ({product()})"
        return value

    def expression() -> str:
        value = exclusive()
        while peek() and peek() in "+|":
            take()
            value += f" | {exclusive()}"
        return value

    result = expression()
    if position != len(tokens):
        raise FunctionError(f"cell function: unexpected {peek()!r} in {text!r}")
    return result


def model(cell: Cell) -> str:
    """Verilog module of a cell, with specify paths for every delay of its library entry."""
    ports = [p.name for p in cell.pins.values() if p.direction in ("input", "output")]
    lines = [f"module {cell.name} ({', '.join(ports)});"]
    lines += [f"  input {p.name};" for p in cell.inputs]
    lines += [f"  output {p.name};" for p in cell.outputs]
    if cell.clock_gate:
        lines += _clock_gate(cell)
    elif cell.sequential is not None:
        lines += _state(cell)
    else:
        lines += [
            f"  assign {p.name} = {verilog_function(p.function)};"
            for p in cell.outputs
            if p.function
        ]
    pairs = sorted({(a.related, p.name) for p in cell.outputs for a in p.arcs if any(a.delay)})
    if pairs:
        lines.append("  specify")
        lines += [f"    ({a} => {b}) = (0, 0);" for a, b in pairs]
        lines.append("  endspecify")
    return "\n".join([*lines, "endmodule", ""])


def _state(cell: Cell) -> list[str]:
    s = cell.sequential
    assert s is not None
    lines = ["  reg state;"]
    clock, data = verilog_function(s.clock), verilog_function(s.data)
    clear = verilog_function(s.clear) if s.clear else "1'b0"
    preset = verilog_function(s.preset) if s.preset else "1'b0"
    lines.append(f"  wire clock = {clock}, data = {data}, clear = {clear}, preset = {preset};")
    update = "if (clear) state <= 0; else if (preset) state <= 1; else"
    if s.kind == "latch":
        lines.append(f"  always @* {update} if (clock) state <= data;")
    else:
        events = "posedge clock"
        events += " or posedge clear" if s.clear else ""
        events += " or posedge preset" if s.preset else ""
        lines.append(f"  always @({events}) {update} state <= data;")
    for pin in cell.outputs:
        inverted = pin.function != s.state and pin.function.endswith("N")
        lines.append(f"  assign {pin.name} = {'~' if inverted else ''}state;")
    return lines


def _clock_gate(cell: Cell) -> list[str]:
    """Latch while the clock is low, and with the clock."""
    names = [p.name for p in cell.inputs]
    clock = next(n for n in names if n.startswith("CLK") or n == "CP")
    enables = " | ".join(n for n in names if n != clock)
    out = cell.outputs[0].name
    return [
        "  reg enable;",
        f"  always @* if (~{clock}) enable = {enables};",
        f"  assign {out} = {clock} & enable;",
    ]


def models(library: Library, kinds: Iterable[str]) -> str:
    """Verilog modules of the named cells."""
    return "`timescale 1ns/1ps\n" + "\n".join(model(library.cells[k]) for k in sorted(kinds))


def sdf(netlist: Netlist, library: Library, timing: Timing) -> str:
    """Standard delay format of the netlist; the clock network keeps zero delay (ideal tree)."""
    clocks = clock_nets(netlist, library, "clk")
    lines = [
        "(DELAYFILE",
        '  (SDFVERSION "3.0")',
        f'  (DESIGN "{netlist.name}")',
        "  (DIVIDER .)",
        "  (TIMESCALE 1ns)",
    ]
    for instance in netlist.instances:
        cell = library.cells[instance.kind]
        on_clock = any(instance.pins.get(p.name) in clocks for p in cell.outputs)
        latch = cell.sequential is not None and cell.sequential.kind == "latch"
        paths = timing.delays.get(instance.name, {})
        if on_clock or latch or not paths:
            continue
        lines.append(f'  (CELL (CELLTYPE "{instance.kind}") (INSTANCE {instance.name})')
        lines.append("    (DELAY (ABSOLUTE")
        for (source, sink), (rise, fall) in paths.items():
            if sink in instance.pins:
                lines.append(f"      (IOPATH {source} {sink} ({rise:.4f}) ({fall:.4f}))")
        lines.append("    ))\n  )")
    return "\n".join([*lines, ")", ""])
