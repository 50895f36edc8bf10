"""A flat gate-level netlist: read from yosys, written as Verilog with simple names."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field

from l1bn.rtl.silicon.library import Library

#: Net names of constants.
CONSTANTS = {"0": "1'b0", "1": "1'b1", "x": "1'b0", "z": "1'b0"}


class NetlistError(ValueError):
    """A netlist that does not fit the library."""


@dataclass(frozen=True)
class Instance:
    """A cell instance: pins to nets; ``path`` is the name that synthesis gave it."""

    name: str
    kind: str
    pins: dict[str, str]
    path: str


@dataclass
class Netlist:
    """Instances between ports.

    Attributes:
        name: Module name.
        inputs, outputs: Nets of each port, bit 0 first.
        instances: Every cell.
        aliases: Net names as in the source, for reports: net to a hierarchical register name.
    """

    name: str
    inputs: dict[str, list[str]]
    outputs: dict[str, list[str]]
    instances: list[Instance]
    aliases: dict[str, str] = field(default_factory=dict)

    def sinks(self) -> dict[str, list[tuple[Instance, str]]]:
        """Input pins on each net, for a library."""
        result: dict[str, list[tuple[Instance, str]]] = defaultdict(list)
        for instance in self.instances:
            for pin, net in instance.pins.items():
                result[net].append((instance, pin))
        return result

    def check(self, library: Library) -> None:
        """Refuse cells that the library does not have.

        Raises:
            NetlistError: Naming them.
        """
        unknown = sorted({i.kind for i in self.instances} - set(library.cells))
        if unknown:
            raise NetlistError(
                f"cells that {library.name} lacks: {', '.join(unknown[:5])}; synthesis must map "
                "everything to the library that timing and power use"
            )

    def area(self, library: Library) -> float:
        """Sum of cell areas, in the library's unit."""
        return sum(library.cells[i.kind].area for i in self.instances)

    def verilog(self) -> str:
        """Structural Verilog with nets n1, n2, … and instances c1, c2, … in it."""
        ports = [*self.inputs, *self.outputs]
        lines = [f"module {self.name} ({', '.join(_escape(p) for p in ports)});"]
        for word, group in (("input", self.inputs), ("output", self.outputs)):
            for name, bits in group.items():
                size = "" if len(bits) == 1 else f"[{len(bits) - 1}:0] "
                lines.append(f"  {word} {size}{_escape(name)};")
        nets = sorted({n for i in self.instances for n in i.pins.values()} | self._port_nets())
        lines += [f"  wire {net};" for net in nets if net[0] == "n"]
        for name, bits in self.inputs.items():
            for index, net in enumerate(bits):
                lines.append(f"  assign {net} = {_bit(name, index, len(bits))};")
        for name, bits in self.outputs.items():
            for index, net in enumerate(bits):
                lines.append(f"  assign {_bit(name, index, len(bits))} = {net};")
        for i in self.instances:
            pins = ", ".join(f".{pin}({net})" for pin, net in i.pins.items())
            lines.append(f"  {i.kind} {i.name} ({pins});")
        return "\n".join([*lines, "endmodule", ""])

    def _port_nets(self) -> set[str]:
        groups = (self.inputs, self.outputs)
        return {n for group in groups for bits in group.values() for n in bits}


def _escape(name: str) -> str:
    return f"\\{name} " if not name.replace("_", "a").isalnum() else name


def _bit(name: str, index: int, size: int) -> str:
    return _escape(name) if size == 1 else f"{_escape(name)}[{index}]"


def from_yosys(text: str, top: str) -> Netlist:
    """Build the netlist from the JSON that yosys writes.

    Raises:
        NetlistError: If the module is missing.
    """
    modules = json.loads(text)["modules"]
    if top not in modules:
        raise NetlistError(f"expected module {top}, got {sorted(modules)}")
    module = modules[top]

    def net(bit: int | str) -> str:
        return CONSTANTS[bit] if isinstance(bit, str) else f"n{bit}"

    inputs: dict[str, list[str]] = {}
    outputs: dict[str, list[str]] = {}
    for name, port in module["ports"].items():
        group = inputs if port["direction"] == "input" else outputs
        group[name] = [net(b) for b in port["bits"]]
    instances = []
    for number, (path, cell) in enumerate(sorted(module["cells"].items()), 1):
        pins = {pin: net(bits[0]) for pin, bits in cell["connections"].items() if bits}
        instances.append(Instance(f"c{number}", cell["type"], pins, path))
    aliases: dict[str, str] = {}
    for name, wire in module["netnames"].items():
        for index, bit in enumerate(wire["bits"]):
            if not isinstance(bit, str) and not name.startswith("$"):
                label = name if len(wire["bits"]) == 1 else f"{name}[{index}]"
                known = aliases.get(f"n{bit}")
                # A hierarchical name says which block the register is in.
                if known is None or ("." in label and "." not in known):
                    aliases[f"n{bit}"] = label
    return Netlist(top, inputs, outputs, instances, aliases)
