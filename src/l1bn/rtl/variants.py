"""The units that a report compares, and which comparison answers which question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from l1bn.errors import UserError
from l1bn.rtl.config import UnitConfig


@dataclass(frozen=True)
class Variant:
    """A unit of the comparison.

    Attributes:
        key: Name on the command line.
        label: Name in tables and plots.
        options: Arguments of `UnitConfig` beside width and elements.
    """

    key: str
    label: str
    options: dict[str, Any]

    def config(self, width: int, elements: int) -> UnitConfig:
        """The unit at a width and an element count."""
        return UnitConfig(width=width, elements=elements, **self.options)


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
)

#: Question, the L1 unit and the L2 unit that answer it, and the claim: speed and energy saved.
COMPARISONS = (
    ("Like for like: one multiplier, two passes", "l1", "l2", 1.25, 0.37),
    ("One pass each, one multiplier", "l1-one-pass", "l2-one-pass", None, None),
    (
        "Frontier: against the best L2 (one pass, two multipliers)",
        "l1-one-pass",
        "l2-one-pass-two-mult",
        1.0,
        0.0,
    ),
    ("Two-pass L1 against the best L2", "l1", "l2-one-pass-two-mult", None, None),
    (
        "Power-of-two σ against the best L2",
        "l1-one-pass-pow2",
        "l2-one-pass-two-mult",
        None,
        None,
    ),
)


def select(names: tuple[str, ...]) -> list[Variant]:
    """Variants by key; "all" is every one, "main" the four of the claim and the frontier.

    Raises:
        UserError: If a name is unknown.
    """
    groups = {
        "all": [v.key for v in VARIANTS],
        "main": ["l1", "l1-one-pass", "l2", "l2-one-pass-two-mult"],
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
