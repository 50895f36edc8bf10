"""The units that a report compares, and which comparison answers which question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from l1bn.errors import UserError
from l1bn.rtl.config import UnitConfig


class Options(TypedDict, total=False):
    """Arguments of ``UnitConfig`` that tell units of one size apart."""

    norm: Literal["l1", "l2"]
    multipliers: int
    sigma: Literal["exact", "pow2"]
    passes: int
    overlap: bool
    squarer: bool


@dataclass(frozen=True)
class Variant:
    """A unit of the comparison.

    Attributes:
        key: Name on the command line.
        label: Name in tables and plots.
        options: Arguments of ``UnitConfig`` beside width and elements.
    """

    key: str
    label: str
    options: Options

    def config(self, width: int, elements: int, *, counted: bool = False) -> UnitConfig:
        """The unit at a width and an element count."""
        return UnitConfig(width=width, elements=elements, counted=counted, **self.options)


VARIANTS = (
    Variant("l1", "L1", {"norm": "l1"}),
    Variant("l1-one-pass", "L1, one pass", {"norm": "l1", "passes": 1}),
    Variant("l1-pow2", "L1, 2ⁿ σ", {"norm": "l1", "sigma": "pow2"}),
    Variant(
        "l1-one-pass-pow2",
        "L1, one pass, 2ⁿ σ",
        {"norm": "l1", "passes": 1, "sigma": "pow2"},
    ),
    Variant("l2", "L2", {"norm": "l2"}),
    Variant("l2-one-pass", "L2, one pass", {"norm": "l2", "passes": 1}),
    Variant("l2-two-mult", "L2, two multipliers", {"norm": "l2", "multipliers": 2}),
    Variant(
        "l2-one-pass-two-mult",
        "L2, one pass, two multipliers",
        {"norm": "l2", "passes": 1, "multipliers": 2},
    ),
    Variant("l1-overlap", "L1, overlapped", {"norm": "l1", "overlap": True}),
    Variant(
        "l1-overlap-two-mult",
        "L1, overlapped, two multipliers",
        {"norm": "l1", "overlap": True, "multipliers": 2},
    ),
    Variant("l2-overlap", "L2, overlapped", {"norm": "l2", "overlap": True}),
    Variant(
        "l2-overlap-squarer",
        "L2, overlapped, one pass, a squarer",
        {"norm": "l2", "overlap": True, "passes": 1, "squarer": True},
    ),
    Variant(
        "l2-overlap-two-mult",
        "L2, overlapped, one pass, two multipliers",
        {"norm": "l2", "overlap": True, "passes": 1, "multipliers": 2},
    ),
)

#: Question, the L1 unit and the L2 unit that answer it, and the claim: speed and energy saved.
COMPARISONS = (
    ("Like for like: one multiplier, two passes, one channel at a time", "l1", "l2", 1.25, 0.37),
    (
        "Like for like: one multiplier, two passes, overlapped",
        "l1-overlap",
        "l2-overlap",
        1.25,
        0.37,
    ),
    (
        "Frontier: two multipliers, overlapped, against the best L2 (one pass)",
        "l1-overlap-two-mult",
        "l2-overlap-two-mult",
        1.0,
        0.0,
    ),
    (
        "One multiplier, overlapped, against the best L2 on one (one pass, a squarer)",
        "l1-overlap",
        "l2-overlap-squarer",
        None,
        None,
    ),
    (
        "Two multipliers, overlapped, against the best L2 on one (one pass, a squarer)",
        "l1-overlap-two-mult",
        "l2-overlap-squarer",
        None,
        None,
    ),
    (
        "One multiplier, overlapped, against the best L2 (two multipliers, one pass)",
        "l1-overlap",
        "l2-overlap-two-mult",
        None,
        None,
    ),
    (
        "One channel at a time: one pass, against two multipliers, one pass",
        "l1-one-pass",
        "l2-one-pass-two-mult",
        None,
        None,
    ),
    ("One pass each, one multiplier", "l1-one-pass", "l2-one-pass", None, None),
    (
        "Power-of-two σ, one pass, against two multipliers, one pass",
        "l1-one-pass-pow2",
        "l2-one-pass-two-mult",
        None,
        None,
    ),
)

#: The units of the two claims.
MAIN = (
    "l1",
    "l2",
    "l1-overlap",
    "l1-overlap-two-mult",
    "l2-overlap",
    "l2-overlap-squarer",
    "l2-overlap-two-mult",
)


def select(names: tuple[str, ...]) -> list[Variant]:
    """Variants by key; "all" is every one, "main" those of the claim and the frontier.

    Raises:
        UserError: If a name is unknown.
    """
    groups = {
        "all": [v.key for v in VARIANTS],
        "main": list(MAIN),
    }
    known = {v.key: v for v in VARIANTS}
    keys: list[str] = []
    for name in names:
        if name not in known and name not in groups:
            raise UserError(
                f"variants: expected all, main, or some of {', '.join(known)}; got {name!r}"
            )
        keys += [k for k in groups.get(name, [name]) if k not in keys]
    return [v for v in VARIANTS if v.key in keys]
