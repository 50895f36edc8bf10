"""What is claimed of a unit, part by part, and how each is decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.formal import solver, structure
from l1bn.rtl.formal.monitors.base import Monitor
from l1bn.rtl.formal.monitors.buffer import BufferMonitor
from l1bn.rtl.formal.monitors.path import PathMonitor
from l1bn.rtl.formal.monitors.reciprocal import ReciprocalMonitor, RootMonitor
from l1bn.rtl.formal.monitors.sums import ProductsMonitor, SumsMonitor
from l1bn.rtl.formal.solver import Proof


@dataclass(frozen=True)
class Claim:
    """One subject that is proven.

    Attributes:
        key: Short name.
        sentence: What holds.
        decide: Proves it, or raises ``Refuted``.
        bounded: Decided by going through every run to its end: hours for a unit of 8 bits.
    """

    key: str
    sentence: str
    decide: Callable[[], Proof]
    bounded: bool = False


def claims(config: UnitConfig) -> Iterator[Claim]:
    """Every claim about a unit, the quick ones first."""
    yield Claim(
        "structure",
        "no latch, no loop, no net with two drivers or none; no valid waits for a ready, and "
        "behind AXI4-Stream no ready for another",
        lambda: structure.prove(config),
    )
    yield _inductive(
        "buffer", "results leave in order, none lost or doubled, unchanged in a stall",
        BufferMonitor, 2,
    )  # fmt: skip
    yield _inductive(
        "path",
        "each element leaves the path once, in order, as saturate((product + offset) >> shift), "
        "with its last mark and its bit; it waits unchanged",
        lambda: PathMonitor(config), 1,
    )  # fmt: skip
    yield _inductive(
        "sums", "Σx, Σg, the sum and the count above the mean are exact: no accumulator overflows",
        lambda: SumsMonitor(config), 1,
    )  # fmt: skip
    yield _inductive(
        "products", "sums of products of two elements are exact: no accumulator overflows",
        lambda: ProductsMonitor(config), 1,
    )  # fmt: skip
    if config.side:
        yield _inductive(
            "side products", "and so are those of the second multiplier or of the squarer",
            lambda: ProductsMonitor(config, aside=True), 1,
        )  # fmt: skip
    if config.sigma == "exact":
        yield _bounded(
            "reciprocal", "1/σ is within one unit of its last place, for every σ from its floor up",
            lambda: ReciprocalMonitor(config),
        )  # fmt: skip
    if config.norm == "l2":
        yield _bounded(
            "root", "root² ≤ radicand < (root + 1)²", lambda: RootMonitor(config)
        )  # fmt: skip


def _inductive(key: str, sentence: str, monitor: Callable[[], Monitor], depth: int) -> Claim:
    return Claim(key, sentence, lambda: solver.prove(monitor(), depth))


def _bounded(
    key: str, sentence: str, monitor: Callable[[], ReciprocalMonitor | RootMonitor]
) -> Claim:
    """Every run of the block ends within the depth, so that nothing is left out."""

    def decide() -> Proof:
        built = monitor()
        return solver.prove(built, built.clocks, induction=False)

    return Claim(key, sentence, decide, bounded=True)
