"""What a conversion did, as data and as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_SHOWN = 3


@dataclass(frozen=True)
class Item:
    """One layer in a report.

    Attributes:
        path: the layer's name in the model, ``""`` for the model itself.
        text: what became of it, or why nothing did.
    """

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path or '(the model itself)'}: {self.text}"


@dataclass
class ConversionReport:
    """What ``l1bn.convert_``, ``l1bn.revert_`` or ``l1bn.convert_sync_`` did.

    ``print(report)`` shows it, grouped and counted.

    Attributes:
        verb: the function's name.
        model: class of the model.
        converted: layers that changed type.
        left: normalization layers that did not, and why.
        fused: layers computed together with what follows them (for ``revert_``: no longer).
        not_fused: layers that are not, and why.
        notes: what else is worth knowing.
    """

    verb: str
    model: str
    converted: list[Item] = field(default_factory=list)
    left: list[Item] = field(default_factory=list)
    fused: list[Item] = field(default_factory=list)
    not_fused: list[Item] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{self.verb}: {self.model}"]
        unfused = "un-fused" if self.verb == "revert_" else "fused"
        for title, items, with_paths in (
            ("converted", self.converted, False),
            ("left as they are", self.left, True),
            (unfused, self.fused, False),
            ("not fused", self.not_fused, True),
        ):
            if items or title == "converted":
                parts += [f"  {len(items)} {title}", *group(items, with_paths)]
        parts += [f"  note: {note}" for note in self.notes]
        return "\n".join(parts)


def group(items: Iterable[Item], with_paths: bool) -> list[str]:
    """Lines that count items of one text together.

    Args:
        items: the items.
        with_paths: name the first few paths of each text.
    """
    paths: dict[str, list[str]] = {}
    for item in items:
        paths.setdefault(item.text, []).append(item.path or "(the model itself)")
    lines = []
    for text, names in sorted(paths.items(), key=lambda entry: -len(entry[1])):
        lines.append(f"      {len(names)} × {text}")
        if with_paths:
            lines.append(f"          {shorten(names)}")
    return lines


def shorten(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
