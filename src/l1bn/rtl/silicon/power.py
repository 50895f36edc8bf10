"""Energy from switching activity and the library's tables.

Per transition of a net: half the charge C·V² of the pins on it. Per transition of a cell's output:
the internal energy of its table at the input's slew and the output's load, weighted over input pins
by how often they move. Per transition of an input pin with a table of its own (clock pins): that.
Plus leakage over time.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from l1bn.rtl.silicon.library import Cell, Library, Pin
from l1bn.rtl.silicon.netlist import Instance, Netlist
from l1bn.rtl.silicon.timing import FALL, RISE, Timing, clock_nets


@dataclass(frozen=True)
class Power:
    """Energy of a run [pJ].

    Attributes:
        switching: Charging of pins on nets.
        internal: Inside cells, from their tables.
        leakage: Over the run's time.
        clock: Part of the first two on clock nets and clock pins.
        blocks: Dynamic energy by block, the first part of the hierarchical name.
    """

    switching: float
    internal: float
    leakage: float
    clock: float
    blocks: dict[str, float]

    @property
    def total(self) -> float:
        """All of it [pJ]."""
        return self.switching + self.internal + self.leakage


def energy(
    netlist: Netlist,
    library: Library,
    timing: Timing,
    rises: dict[str, int],
    falls: dict[str, int],
    *,
    time: float,
    blocks: dict[str, str] | None = None,
) -> Power:
    """Energy of a run with given transitions.

    Args:
        netlist: The netlist.
        library: Its library.
        timing: Slews and loads.
        rises: Rising transitions of each net.
        falls: Falling transitions of each net.
        time: Length of the run [ns].
        blocks: Block of each instance; None takes one block.
    """
    clocks = clock_nets(netlist, library, "clk")
    switching = internal = leakage = clock = 0.0
    split: dict[str, float] = defaultdict(float)
    driver = {
        i.pins[p.name]: i
        for i in netlist.instances
        for p in library.cells[i.kind].outputs
        if p.name in i.pins
    }
    for net, load in timing.load.items():
        count = rises.get(net, 0) + falls.get(net, 0)
        part = 0.5 * load * library.voltage**2 * count
        switching += part
        clock += part if net in clocks else 0.0
        source = driver.get(net)
        split[_block(blocks, source)] += part
    for instance in netlist.instances:
        cell = library.cells[instance.kind]
        outputs = _outputs(instance, cell, timing, rises, falls)
        inputs, on_clock = _inputs(instance, cell, timing, rises, falls, clocks)
        internal += outputs + inputs
        clock += on_clock
        is_clock = any(instance.pins.get(p.name) in clocks for p in cell.outputs)
        clock += outputs if is_clock else 0.0
        split[_block(blocks, instance)] += outputs + inputs
        leakage += cell.leakage * time * 1e3  # W · ns = nJ = 1e3 pJ
    return Power(switching, internal, leakage, clock, dict(split))


def _block(blocks: dict[str, str] | None, instance: Instance | None) -> str:
    if blocks is None:
        return "unit"
    return blocks.get(instance.name, "control") if instance is not None else "inputs"


def _outputs(
    instance: Instance, cell: Cell, timing: Timing, rises: dict[str, int], falls: dict[str, int]
) -> float:
    """Internal energy of output transitions."""
    total = 0.0
    for out in cell.outputs:
        net = instance.pins.get(out.name)
        if net is None or not out.energies:
            continue
        up, down = rises.get(net, 0), falls.get(net, 0)
        if not up and not down:
            continue
        rise, fall = _weighted(instance, out, timing, timing.load.get(net, 0.0), rises, falls)
        total += up * rise + down * fall
    return total


def _weighted(
    instance: Instance, out: Pin, timing: Timing, load: float,
    rises: dict[str, int], falls: dict[str, int],
) -> tuple[float, float]:  # fmt: skip
    """Mean energy of a rising and of a falling output, over the inputs that may have caused it."""
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in out.energies:
        source = instance.pins.get(entry.related, "")
        slew = timing.slew.get(source, (0.0, 0.0))
        rise = entry.rise(max(slew), load) if entry.rise else 0.0
        fall = entry.fall(max(slew), load) if entry.fall else 0.0
        groups[entry.related].append((rise, fall))
    weights = {}
    for related in groups:
        net = instance.pins.get(related, "")
        weights[related] = rises.get(net, 0) + falls.get(net, 0)
    norm = sum(weights.values())
    result = [0.0, 0.0]
    for related, pairs in groups.items():
        weight = weights[related] / norm if norm else 1.0 / len(groups)
        for edge in (RISE, FALL):
            # Conditions (when) are averaged: their states are not recorded.
            result[edge] += weight * sum(p[edge] for p in pairs) / len(pairs)
    return result[0], result[1]


def _inputs(
    instance: Instance, cell: Cell, timing: Timing, rises: dict[str, int], falls: dict[str, int],
    clocks: set[str],
) -> tuple[float, float]:  # fmt: skip
    """Internal energy of input pins with tables of their own; and the part on clock pins."""
    total = clock = 0.0
    for pin in cell.inputs:
        net = instance.pins.get(pin.name)
        own = [e for e in pin.energies if not e.related]
        if net is None or not own:
            continue
        up, down = rises.get(net, 0), falls.get(net, 0)
        slew = timing.slew.get(net, (0.0, 0.0))
        rise = [e.rise(slew[RISE], 0.0) for e in own if e.rise]
        fall = [e.fall(slew[FALL], 0.0) for e in own if e.fall]
        part = up * (sum(rise) / len(rise) if rise else 0.0)
        part += down * (sum(fall) / len(fall) if fall else 0.0)
        total += part
        clock += part if net in clocks else 0.0
    return total, clock
