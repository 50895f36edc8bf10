"""A netlist of FPGA cells: counted, written as Verilog to simulate, and its transitions weighed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from l1bn.rtl.fpga.family import Family
from l1bn.rtl.silicon.netlist import CONSTANTS
from l1bn.rtl.verify.testbench import Transitions


@dataclass(frozen=True)
class Resources:
    """What a netlist takes of a device.

    Attributes:
        luts: Look-up tables of four inputs, those of adders among them.
        flip_flops: Flip-flops.
        dsps: Multipliers.
        block_rams: Blocks of RAM.
    """

    luts: int
    flip_flops: int
    dsps: int
    block_rams: int


class FpgaNetlist:
    """The cells of one module, from the JSON that yosys writes.

    Args:
        text: The JSON.
        top: The module.
        family: Whose cells they are.
    """

    def __init__(self, text: str, top: str, family: Family) -> None:
        module = json.loads(text)["modules"][top]
        self.top, self.family = top, family
        self.ports: dict[str, Any] = module["ports"]
        self.cells: dict[str, Any] = module["cells"]

    def resources(self) -> Resources:
        """Cells by what they are."""
        kinds = Counter(cell["type"] for cell in self.cells.values())
        return Resources(
            luts=sum(self.family.luts.get(kind, 0) * n for kind, n in kinds.items()),
            flip_flops=sum(n for kind, n in kinds.items() if _is_flip_flop(kind)),
            dsps=sum(kinds[kind] for kind in self.family.multipliers),
            block_rams=sum(kinds[kind] for kind in self.family.memories),
        )

    def verilog(self) -> str:
        """Structural Verilog with a wire of its own for each net, so that each is counted."""
        lines = [f"module {self.top} ({', '.join(self.ports)});"]
        nets: set[int] = set()
        for name, port in self.ports.items():
            bits = port["bits"]
            nets.update(b for b in bits if isinstance(b, int))
            lines.append(f"  {port['direction']} [{len(bits) - 1}:0] {name};")
            for index, bit in enumerate(bits):
                ends = (_net(bit), f"{name}[{index}]")
                to, source = ends if port["direction"] == "input" else ends[::-1]
                lines.append(f"  assign {to} = {source};")
        instances = []
        for number, cell in enumerate(self.cells.values()):
            pins = []
            for pin, bits in cell["connections"].items():
                nets.update(b for b in bits if isinstance(b, int))
                pins.append(f".{pin}({{{', '.join(_net(b) for b in reversed(bits))}}})")
            values = ", ".join(f".{k}({_value(v)})" for k, v in cell["parameters"].items())
            instances.append(f"  {cell['type']} #({values}) c{number} ({', '.join(pins)});")
        declared = [f"  wire n{net};" for net in sorted(nets)]
        return "\n".join([lines[0], *declared, *lines[1:], *instances, "endmodule", ""])

    def moved_pins(self, transitions: Transitions) -> int:
        """Transitions of every net but the clock, each times the cell inputs that it drives."""
        sinks: Counter[str] = Counter()
        for cell in self.cells.values():
            directions = cell["port_directions"]
            for pin, bits in cell["connections"].items():
                if directions[pin] == "input" and pin not in self.family.clock_pins:
                    sinks.update(_net(bit) for bit in bits if isinstance(bit, int))
        moved = (transitions.rises, transitions.falls)
        return sum(n * sum(counts.get(net, 0) for counts in moved) for net, n in sinks.items())


def _is_flip_flop(kind: str) -> bool:
    return kind.startswith("SB_DFF")


def _net(bit: int | str) -> str:
    return CONSTANTS[bit] if isinstance(bit, str) else f"n{bit}"


def _value(value: str) -> str:
    """A parameter: yosys writes numbers in binary, and texts as they are."""
    binary = bool(value) and not set(value) - set("01xz")
    return f"{len(value)}'b{value}" if binary else f'"{value.strip()}"'
