"""What is measured of a unit, and of its parts: the entries of results.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.silicon.library import Conditions


@dataclass(frozen=True)
class CriticalPath:
    """The longest path between two registers, in source names.

    Attributes:
        start: Where it starts.
        end: Where it ends.
        stages: Cells between.
    """

    start: str
    end: str
    stages: int


@dataclass(frozen=True)
class Cost:
    """What an element costs, forward and backward together.

    Attributes:
        clocks_per_element: Clocks.
        time_per_element: Time at the critical path's clock [ns].
        energy_per_element: Energy [pJ].
    """

    clocks_per_element: float
    time_per_element: float
    energy_per_element: float


@dataclass(frozen=True)
class UnitCost(Cost):
    """The same of a whole unit, and where it goes. Energies are per element [pJ].

    Attributes:
        channels: Channels that were simulated.
        clocks: Clocks that they took.
        switching: Energy of the nets.
        internal: Energy inside the cells.
        clock: Part of both that the clock takes.
        leakage: Energy of cells at rest.
        by_phase: Dynamic energy of each pass over the data.
        by_block: Dynamic energy of each block of the unit.
    """

    channels: int
    clocks: int
    switching: float
    internal: float
    clock: float
    leakage: float
    by_phase: dict[str, float]
    by_block: dict[str, float]


@dataclass(frozen=True)
class UnitRecord:
    """A unit on a library.

    Attributes:
        unit: Name of its Verilog module.
        config: What it is.
        library: Cell library.
        voltage: Supply [V].
        conditions: What timing and power assume at the boundary.
        gating: Whether clock gates were allowed.
        recipe: The abc script of its netlist.
        period: Critical path [ns].
        area: Area of the cells, in the library's unit.
        cells: Their number.
        registers: How many of them are flip-flops.
        clock_gates: How many of them gate the clock.
        area_by_block: Area of each block.
        path: The critical path.
        stimuli: Costs on each kind of data.
        variant: Its name in a comparison.
    """

    unit: str
    config: UnitConfig
    library: str
    voltage: float
    conditions: Conditions
    gating: bool
    recipe: str
    period: float
    area: float
    cells: int
    registers: int
    clock_gates: int
    area_by_block: dict[str, float]
    path: CriticalPath
    stimuli: dict[str, UnitCost]
    variant: str = ""

    def entry(self) -> dict[str, object]:
        """The record as results.json holds it."""
        path = {"from": self.path.start, "to": self.path.end, "stages": self.path.stages}
        return {**asdict(self), "path": path}


@dataclass(frozen=True)
class PartRecord:
    """A part of a unit, synthesized alone.

    Attributes:
        part: Its name.
        norm: "l1" or "l2".
        width: Bits of the data.
        library: Cell library.
        recipe: The abc script of its netlist.
        period: Critical path [ns].
        area: Area of the cells, in the library's unit.
        cells: Their number.
        stimuli: Costs on each kind of data.
    """

    part: str
    norm: str
    width: int
    library: str
    recipe: str
    period: float
    area: float
    cells: int
    stimuli: dict[str, Cost]

    def entry(self) -> dict[str, object]:
        """The record as results.json holds it."""
        return asdict(self)
