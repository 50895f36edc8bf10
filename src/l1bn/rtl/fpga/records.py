"""What is measured of a unit, or of a part of one, on an FPGA, and how two compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from l1bn.rtl.fpga.netlist import Resources
from l1bn.rtl.variants import COMPARISONS


@dataclass(frozen=True)
class Work:
    """What an element takes, forward and backward together.

    Attributes:
        clocks: Clocks, counted in a simulation of the netlist.
        moved_pins: Cell inputs that change, those of the clock left out.
    """

    clocks: float
    moved_pins: float


@dataclass(frozen=True)
class Spread:
    """Median, least and most of a figure over the seeds."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of some values."""
        return Spread(median(values), min(values), max(values))


@dataclass(frozen=True)
class FpgaRecord:
    """A unit, or a part of one, on a device.

    Attributes:
        kind: "unit" or "part".
        name: Its variant, or the part.
        norm: "l1" or "l2".
        width: Bits of the data.
        target: Label of the device.
        resources: Cells that it takes, without the frame it is routed in.
        mhz: Routed clock for each seed of the placer, from 1 on.
        stimuli: What an element takes, on each kind of data.
    """

    kind: str
    name: str
    norm: str
    width: int
    target: str
    resources: Resources
    mhz: tuple[float, ...]
    stimuli: dict[str, Work]

    @property
    def clock(self) -> Spread:
        """Routed clock [MHz]."""
        return Spread.of(self.mhz)

    def time(self, stimulus: str) -> Spread:
        """Time per element [ns]."""
        clocks = self.stimuli[stimulus].clocks
        return Spread.of([1000 * clocks / mhz for mhz in self.mhz])


@dataclass(frozen=True)
class FpgaComparison:
    """L1 against L2 on one device.

    Attributes:
        question: What is compared.
        target: Label of the device.
        width: Bits of the data.
        l1, l2: Their names.
        speed: L2's time per element over L1's: of the medians; of L1's slowest seed against L2's
            fastest; and the other way round.
        luts_saved: Share of L2's LUTs.
        pins_saved: Share of L2's moved pins per element.
    """

    question: str
    target: str
    width: int
    l1: str
    l2: str
    speed: Spread
    luts_saved: float
    pins_saved: float

    def verdict(self) -> str:
        """In a line."""
        s = self.speed
        return (
            f"{self.target}, {self.width} bit: {self.question}: {s.median:.2f}x speed "
            f"({s.low:.2f} to {s.high:.2f}), {self.luts_saved:.1%} LUTs and "
            f"{self.pins_saved:.1%} moved pins saved"
        )


def compare(records: Sequence[FpgaRecord], stimulus: str) -> list[FpgaComparison]:
    """The comparisons that records allow: those of whole units, then each part."""
    found = {(r.target, r.width, r.kind, r.name, r.norm): r for r in records}
    parts = dict.fromkeys(r.name for r in records if r.kind == "part")
    asked = [(question, "unit", l1, l2) for question, l1, l2, *_ in COMPARISONS]
    asked += [(f"The {part} alone", "part", part, part) for part in parts]
    result = []
    for target, width in dict.fromkeys((r.target, r.width) for r in records):
        for question, kind, one, two in asked:
            a = found.get((target, width, kind, one, "l1"))
            b = found.get((target, width, kind, two, "l2"))
            if a is not None and b is not None:
                result.append(_between(question, a, b, stimulus))
    return result


def _between(question: str, a: FpgaRecord, b: FpgaRecord, stimulus: str) -> FpgaComparison:
    l1, l2 = a.time(stimulus), b.time(stimulus)
    return FpgaComparison(
        question=question,
        target=a.target,
        width=a.width,
        l1=a.name,
        l2=b.name,
        speed=Spread(l2.median / l1.median, l2.low / l1.high, l2.high / l1.low),
        luts_saved=1 - a.resources.luts / b.resources.luts,
        pins_saved=1 - a.stimuli[stimulus].moved_pins / b.stimuli[stimulus].moved_pins,
    )
