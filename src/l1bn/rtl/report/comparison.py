"""What one unit of L1 and one of L2 say about a question, at one library and width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from l1bn.rtl.report.records import PartRecord, UnitRecord
from l1bn.rtl.variants import COMPARISONS


@dataclass(frozen=True)
class Goal:
    """What a question claims: L1's speed in multiples of L2's, and the share of energy saved."""

    speed: float
    energy_saved: float


@dataclass(frozen=True)
class Comparison:
    """L1 against L2.

    Attributes:
        question: What is compared.
        library: Cell library.
        width: Bits of the data.
        l1: Variant of L1.
        l2: Variant of L2.
        speed: L2's time per element over L1's.
        clock_ratio: L2's period over L1's.
        energy_saved: Share of L2's energy per element.
        area_saved: Share of L2's area.
        goal: The claim, where the question makes one.
        reached: Whether it holds.
    """

    question: str
    library: str
    width: int
    l1: str
    l2: str
    speed: float
    clock_ratio: float
    energy_saved: float
    area_saved: float
    goal: Goal | None
    reached: bool | None

    def verdict(self, stimulus: str) -> str:
        """In a line."""
        mark = {None: "", True: "  goal reached", False: "  goal not reached"}[self.reached]
        return (
            f"{self.library}, {self.width} bit, {stimulus}: {self.question}: "
            f"{self.speed:.2f}x speed, {self.energy_saved:.1%} energy saved{mark}"
        )


def by_stimulus(records: Sequence[UnitRecord]) -> dict[str, list[Comparison]]:
    """The comparisons that records of units allow, for each stimulus."""
    names = dict.fromkeys(name for record in records for name in record.stimuli)
    return {name: _compare(records, name) for name in names}


def _compare(records: Sequence[UnitRecord], stimulus: str) -> list[Comparison]:
    records = [r for r in records if stimulus in r.stimuli]
    found = {(r.library, r.config.width, r.variant): r for r in records}
    result = []
    for library, width in dict.fromkeys((r.library, r.config.width) for r in records):
        for question, one, two, speed, saving in COMPARISONS:
            a, b = found.get((library, width, one)), found.get((library, width, two))
            if a is None or b is None:
                continue
            goal = None if speed is None or saving is None else Goal(speed, saving)
            result.append(_between(question, a, b, stimulus, goal))
    return result


def _between(
    question: str, a: UnitRecord, b: UnitRecord, stimulus: str, goal: Goal | None
) -> Comparison:
    l1, l2 = a.stimuli[stimulus], b.stimuli[stimulus]
    speed = l2.time_per_element / l1.time_per_element
    saved = 1 - l1.energy_per_element / l2.energy_per_element
    return Comparison(
        question=question,
        library=a.library,
        width=a.config.width,
        l1=a.variant,
        l2=b.variant,
        speed=speed,
        clock_ratio=b.period / a.period,
        energy_saved=saved,
        area_saved=1 - a.area / b.area,
        goal=goal,
        reached=None if goal is None else speed >= goal.speed and saved >= goal.energy_saved,
    )


@dataclass(frozen=True)
class Alone:
    """A part alone: what it costs, its area and its critical path [ns]."""

    clocks_per_element: float
    time_per_element: float
    energy_per_element: float
    area: float
    period: float

    @staticmethod
    def of(part: PartRecord, stimulus: str) -> Alone:
        """Read it from a record."""
        cost = part.stimuli[stimulus]
        return Alone(
            cost.clocks_per_element,
            cost.time_per_element,
            cost.energy_per_element,
            part.area,
            part.period,
        )


@dataclass(frozen=True)
class PartRatio:
    """What a part of L2 needs in multiples of the same part of L1.

    Attributes:
        library: Cell library.
        width: Bits of the data.
        part: Name of the part.
        l1: L1's.
        l2: L2's.
        area: Ratio of areas.
        speed: Ratio of times per element.
        energy: Ratio of energies per element.
    """

    library: str
    width: int
    part: str
    l1: Alone
    l2: Alone
    area: float
    speed: float
    energy: float


def compare_parts(parts: Sequence[PartRecord], stimulus: str) -> list[PartRatio]:
    """The ratios that records of parts allow, by library and width."""
    found = {(p.library, p.width, p.part, p.norm): p for p in parts}
    result = []
    for (library, width, part, norm), one in found.items():
        two = found.get((library, width, part, "l2"))
        if norm != "l1" or two is None:
            continue
        l1, l2 = Alone.of(one, stimulus), Alone.of(two, stimulus)
        result.append(
            PartRatio(
                library=library,
                width=width,
                part=part,
                l1=l1,
                l2=l2,
                area=l2.area / l1.area,
                speed=l2.time_per_element / l1.time_per_element,
                energy=l2.energy_per_element / l1.energy_per_element,
            )
        )
    return result
