"""How many clocks each command takes, from a simulation without stalls."""

from __future__ import annotations

from dataclasses import dataclass, replace

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.verify.simulate import simulate, steps
from l1bn.rtl.verify.stimulus import expected, gaussian

#: Larger channels are simulated with so many elements.
MOST_ELEMENTS = 256


@dataclass(frozen=True)
class Latency:
    """Of one kind of command.

    Attributes:
        operation: Its name.
        elements: Elements per channel of the simulation.
        taken: Elements that the command takes, over all of its passes.
        least, most: Clocks until it is done; scalars of some channels take longer than of others.
    """

    operation: str
    elements: int
    taken: int
    least: int
    most: int

    def row(self) -> tuple[str, ...]:
        """The cells of a table."""
        span = f"{self.least} to {self.most}" if self.least < self.most else f"{self.least}"
        return self.operation, str(self.elements), str(self.taken), span


def latencies(config: UnitConfig) -> list[Latency]:
    """Clocks of each command, over four Gaussian channels; steps that fill a layer do not count.

    Args:
        config: The unit.

    Raises:
        MismatchError: If a bit differs from the integer model.
    """
    unit = replace(config, elements=min(config.elements, MOST_ELEMENTS))
    channels = gaussian(unit, 4)
    ordered = steps(unit, channels, list(expected(unit, channels)), "steady")
    run = simulate(unit, channels, order="steady")
    found: dict[tuple[str, int], list[int]] = {}
    for step, clocks in zip(ordered, run.steps, strict=True):
        if step.counted and step.elements:
            found.setdefault((step.operation.name, len(step.elements)), []).append(clocks)
    return [
        Latency(operation, unit.elements, taken, min(clocks), max(clocks))
        for (operation, taken), clocks in found.items()
    ]
