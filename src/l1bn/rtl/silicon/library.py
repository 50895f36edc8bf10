"""A cell library: cells, pins, and the tables that timing and power are computed from.

Units: time [ns], capacitance [pF], energy [pJ], leakage [W], area as in the library's file.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from l1bn.rtl.silicon.liberty_syntax import LibertyError


@dataclass(frozen=True)
class Table:
    """A lookup table over input slew [ns] and output load [pF], or over one of them, or constant.

    Values are interpolated bilinearly and extrapolated along the last segment.
    """

    slews: tuple[float, ...]
    loads: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def __call__(self, slew: float, load: float) -> float:
        """The value at a slew [ns] and a load [pF]."""
        i, u = _locate(self.slews, slew)
        j, v = _locate(self.loads, load)
        rows = self.values
        if len(self.slews) == 1:
            row = rows[0]
            return row[0] if len(row) == 1 else row[j] + v * (row[j + 1] - row[j])
        if len(self.loads) == 1:
            return rows[i][0] + u * (rows[i + 1][0] - rows[i][0])
        low = rows[i][j] + v * (rows[i][j + 1] - rows[i][j])
        high = rows[i + 1][j] + v * (rows[i + 1][j + 1] - rows[i + 1][j])
        return low + u * (high - low)


def _locate(axis: tuple[float, ...], value: float) -> tuple[int, float]:
    if len(axis) == 1:
        return 0, 0.0
    i = min(max(bisect.bisect_right(axis, value) - 1, 0), len(axis) - 2)
    return i, (value - axis[i]) / (axis[i + 1] - axis[i])


@dataclass(frozen=True)
class Arc:
    """A timing arc to a pin.

    Attributes:
        related: Pin it starts from.
        sense: positive_unate, negative_unate or non_unate.
        kind: timing_type; "combinational", "rising_edge", "setup_rising", ...
        delay, transition: Tables for a rising and a falling output [ns].
        constraint: Setup tables for rising and falling data [ns]: slew of data, slew of clock.
    """

    related: str
    sense: str
    kind: str
    delay: tuple[Table | None, Table | None] = (None, None)
    transition: tuple[Table | None, Table | None] = (None, None)
    constraint: tuple[Table | None, Table | None] = (None, None)


@dataclass(frozen=True)
class Energy:
    """Internal energy of a pin's transition [pJ]; ``related`` is "" for an input pin itself."""

    related: str
    rise: Table | None
    fall: Table | None


@dataclass(frozen=True)
class Pin:
    """A pin: direction, input capacitance [pF], function, arcs and energies.

    ``role`` is what a clock gate uses it for: "clock", "enable", "test", "out", or "".
    """

    name: str
    direction: str
    capacitance: float
    function: str
    arcs: tuple[Arc, ...]
    energies: tuple[Energy, ...]
    role: str = ""


@dataclass(frozen=True)
class Sequential:
    """State of a cell: kind "ff" or "latch", its variables, and its expressions."""

    kind: str
    state: str
    complement: str
    clock: str
    data: str
    clear: str
    preset: str


@dataclass(frozen=True)
class Cell:
    """A library cell.

    Attributes:
        clock_gate: Kind of clock gate, such as ``latch_posedge``, or "".
        dont_use: The library asks synthesis not to use it.
    """

    name: str
    area: float
    leakage: float
    pins: dict[str, Pin]
    sequential: Sequential | None
    clock_gate: str
    dont_use: bool = False

    def pin_for(self, role: str) -> Pin:
        """The pin that a clock gate uses for something.

        Raises:
            LibertyError: If no pin says so.
        """
        found = next((p for p in self.pins.values() if p.role == role), None)
        if found is None:
            raise LibertyError(f"{self.name}: expected a pin with clock_gate_{role}_pin, got none")
        return found

    @property
    def inverts(self) -> bool:
        """Whether it is an inverter."""
        if len(self.inputs) != 1 or len(self.outputs) != 1 or self.sequential is not None:
            return False
        name = self.inputs[0].name
        return re.sub(r"[() ]", "", self.outputs[0].function) in (f"!{name}", f"{name}'")

    @property
    def inputs(self) -> list[Pin]:
        """Input pins."""
        return [p for p in self.pins.values() if p.direction == "input"]

    @property
    def outputs(self) -> list[Pin]:
        """Output pins."""
        return [p for p in self.pins.values() if p.direction == "output"]


@dataclass(frozen=True)
class Conditions:
    """What timing and power assume at the boundary: slews [ns] and load [pF].

    Attributes:
        clock_slew: Slew of the clock.
        input_slew: Slew of primary inputs.
        output_load: Load of each primary output.
    """

    clock_slew: float = 0.06
    input_slew: float = 0.1
    output_load: float = 0.02


@dataclass(frozen=True)
class Library:
    """A cell library; units in the module's head.

    Attributes:
        name: Its name; of several files, what their names have in common.
        voltage: Supply [V].
        cells: The cells that can be used.
        left_out: The others, and why.
        conditions: What is assumed at the boundary of a netlist.
    """

    name: str
    voltage: float
    cells: dict[str, Cell]
    left_out: dict[str, str] = field(default_factory=dict)
    conditions: Conditions = Conditions()

    def inverters(self) -> list[Cell]:
        """The inverters, the smallest first.

        Raises:
            LibertyError: If there is none.
        """
        found = [c for c in self.cells.values() if c.inverts]
        if not found:
            raise LibertyError(
                f"{self.name}: expected a cell with the function of an inverter, found none"
                + self.excuse()
            )
        return sorted(found, key=lambda c: (c.area, c.name))

    def excuse(self) -> str:
        """What was left out, for a message."""
        some = [f"{name} ({why})" for name, why in list(self.left_out.items())[:3]]
        return f"; left out {len(self.left_out)}: {', '.join(some)}" if some else ""


def merge(libraries: Sequence[Library]) -> Library:
    """One library of several files.

    Raises:
        LibertyError: If they are of different supplies, or define a cell twice.
    """
    first = libraries[0]
    if len(libraries) == 1:
        return first
    cells: dict[str, Cell] = {}
    left_out: dict[str, str] = {}
    for library in libraries:
        if library.voltage != first.voltage:
            raise LibertyError(
                f"{library.name}: expected {first.voltage} V as {first.name} has, got "
                f"{library.voltage} V; files of one library must be of one corner"
            )
        twice = sorted(set(cells) & set(library.cells))
        if twice:
            raise LibertyError(f"{library.name}: {twice[0]} is in another file, too")
        cells |= library.cells
        left_out |= library.left_out
    names = (library.name for library in libraries)
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    name = "".join(letters[0] for letters in same).strip("_-. ")
    return with_conditions(Library(name or first.name, first.voltage, cells, left_out))


def is_whole(library: Library) -> bool:
    """Whether a file is a library by itself: an inverter, a gate, a flip-flop."""
    cells = library.cells.values()
    return (
        any(c.inverts for c in cells)
        and any(c.sequential is None and len(c.inputs) > 1 for c in cells)
        and any(c.sequential is not None and c.sequential.kind == "ff" for c in cells)
    )


def with_conditions(library: Library) -> Library:
    """Slews and load in keeping with a fast library: not above what its inverters are about.

    The upper ends are what an older library sees: a slew of 0.06 ns, a load of 0.02 pF.
    """
    if not any(c.inverts for c in library.cells.values()):
        return library
    inverter, most = library.inverters()[0], Conditions()
    capacitance = inverter.inputs[0].capacitance
    slew = most.input_slew
    for _ in range(4):  # inverters in a row, each with four to drive
        tables = [t for t in inverter.outputs[0].arcs[0].transition if t is not None]
        slew = sum(t(slew, 4 * capacitance) for t in tables) / len(tables)
    return replace(
        library,
        conditions=Conditions(
            min(most.clock_slew, 2 * slew),
            min(most.input_slew, 4 * slew),
            min(most.output_load, 12 * capacitance),
        ),
    )


def fanout_of_four(inverter: Cell) -> float:
    """Mean delay of an inverter that drives four of its kind, at a slew of 0.1 ns [ns]."""
    load = 4 * inverter.inputs[0].capacitance
    delays = [t(0.1, load) for t in inverter.outputs[0].arcs[0].delay if t is not None]
    return sum(delays) / len(delays)
