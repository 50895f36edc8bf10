"""What one unit of L1 and one of L2 say about a question, at one library and width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


def by_stimulus(records: Sequence[dict[str, Any]]) -> dict[str, list[Comparison]]:
    """The comparisons that records of units allow, for each stimulus."""
    names = dict.fromkeys(name for record in records for name in record["stimuli"])
    return {name: _compare(records, name) for name in names}


def _compare(records: Sequence[dict[str, Any]], stimulus: str) -> list[Comparison]:
    records = [r for r in records if stimulus in r["stimuli"]]
    found = {(r["library"], r["config"]["width"], r["variant"]): r for r in records}
    result = []
    for library, width in dict.fromkeys((r["library"], r["config"]["width"]) for r in records):
        for question, one, two, speed, saving in COMPARISONS:
            a, b = found.get((library, width, one)), found.get((library, width, two))
            if a is None or b is None:
                continue
            goal = None if speed is None or saving is None else Goal(speed, saving)
            result.append(_between(question, a, b, stimulus, goal))
    return result


def _between(
    question: str, a: dict[str, Any], b: dict[str, Any], stimulus: str, goal: Goal | None
) -> Comparison:
    l1, l2 = a["stimuli"][stimulus], b["stimuli"][stimulus]
    speed = l2["time_per_element"] / l1["time_per_element"]
    saved = 1 - l1["energy_per_element"] / l2["energy_per_element"]
    return Comparison(
        question=question,
        library=a["library"],
        width=a["config"]["width"],
        l1=a["variant"],
        l2=b["variant"],
        speed=speed,
        clock_ratio=b["period"] / a["period"],
        energy_saved=saved,
        area_saved=1 - a["area"] / b["area"],
        goal=goal,
        reached=None if goal is None else speed >= goal.speed and saved >= goal.energy_saved,
    )
