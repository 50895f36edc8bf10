"""Verilog models of library cells, and delays for them: from Liberty, so that all three agree."""

from __future__ import annotations

import re
from collections.abc import Iterable

from l1bn.rtl.silicon.library import Cell, Library, Pin
from l1bn.rtl.silicon.netlist import Netlist
from l1bn.rtl.silicon.timing import Timing, clock_nets

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
    reader = _Reader(text, tokens)
    result = reader.expression()
    if reader.tokens:
        raise FunctionError(f"cell function: unexpected {reader.tokens[0]!r} in {text!r}")
    return result


class _Reader:
    """Recursive descent over the tokens of an expression: or, exclusive or, and, not."""

    def __init__(self, text: str, tokens: list[str]) -> None:
        self.text, self.tokens = text, tokens

    def _next_in(self, choices: str) -> bool:
        return bool(self.tokens) and self.tokens[0] in choices

    def expression(self) -> str:
        value = self._exclusive()
        while self._next_in("+|"):
            self.tokens.pop(0)
            value += f" | {self._exclusive()}"
        return value

    def _exclusive(self) -> str:
        value = self._product()
        while self._next_in("^"):
            self.tokens.pop(0)
            value = f"({value}) ^ ({self._product()})"
        return value

    def _product(self) -> str:
        value = self._factor()
        while self.tokens and not self._next_in(")+|^"):
            if self._next_in("*&"):
                self.tokens.pop(0)
            value += f" & {self._factor()}"
        return value

    def _factor(self) -> str:
        token = self.tokens.pop(0) if self.tokens else ""
        if token == "!":
            return f"~{self._factor()}"
        if token == "(":
            value = f"({self.expression()})"
            if not self._next_in(")"):
                raise FunctionError(f"cell function: expected ) in {self.text!r}")
            self.tokens.pop(0)
        elif re.match(r"[A-Za-z_]", token):
            value = token
        elif token in ("0", "1"):
            value = f"1'b{token}"
        else:
            raise FunctionError(f"cell function: unexpected {token!r} in {self.text!r}")
        while self._next_in("'"):
            self.tokens.pop(0)
            value = f"(~{value})"
        return value


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
    # Power-up state is random, not unknown: silicon has no X, and gates would never clear one.
    lines = ["  reg state = $random;"]
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
    for name, value in ((s.state, "state"), (s.complement, "~state")):
        if name and name not in cell.pins:
            lines.append(f"  wire {name} = {value};")
    return lines + [f"  assign {pin.name} = {_shown(cell, pin)};" for pin in cell.outputs]


def _shown(cell: Cell, pin: Pin) -> str:
    """What an output of a register shows; a pin may bear the name of a state variable."""
    s = cell.sequential
    assert s is not None
    if pin.function in (s.state, s.complement):
        return "state" if pin.function == s.state else "~state"
    return verilog_function(pin.function)


def _clock_gate(cell: Cell) -> list[str]:
    """Latch while the clock is low, and with the clock."""
    clock, enable = cell.pin_for("clock").name, cell.pin_for("enable").name
    tests = [p.name for p in cell.inputs if p.role == "test"]
    return [
        "  reg enable = 0;",
        f"  always @* if (~{clock}) enable = {' | '.join([enable, *tests])};",
        f"  assign {cell.pin_for('out').name} = {clock} & enable;",
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
