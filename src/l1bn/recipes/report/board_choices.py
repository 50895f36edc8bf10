"""What each choice of learning layers costs, as a table for the terminal, a page and a file."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from l1bn.device.trial.choices import Choice
from l1bn.recipes.report.board_plots import depth

_COUNTED = (("instructions", "instr., step"), ("worst_instructions", "worst step"))
_PLAIN = (("plain_instructions", "plain C, step"), ("plain_worst_instructions", "worst step"))
_PRODUCTS = (("macs", "products, step"), ("worst_macs", "worst step"))


def _fields(choices: Sequence[Choice]) -> list[tuple[str, str]]:
    """Return the fields worth a column, with their titles."""
    counted = any(c.instructions for c in choices)
    found = [("ram", "RAM [B]")]
    if any(c.flash for c in choices):
        found.append(("flash", "flash [B]"))
    found += _COUNTED if counted else _PRODUCTS
    return [*found, *(_PLAIN if any(c.plain_instructions for c in choices) else ())]


def columns(choices: Sequence[Choice]) -> list[str]:
    """Return the titles of the columns."""
    return ["what learns", *(title for _, title in _fields(choices))]


def cells(choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """Return a row of texts for each choice, or why it cannot be built."""
    fields = [name for name, _ in _fields(choices)]
    return [
        {
            "name": name_of(choice),
            "numbers": [f"{getattr(choice, name):,}" for name in fields],
            "refused": choice.refused,
        }
        for choice in choices
    ]


def name_of(choice: Choice) -> str:
    """Return a choice in words."""
    whole = depth(choice.learn)
    return {
        "all": whole,
        "last": f"of {whole}: the last {choice.count}",
        "in turn": f"of {whole}: one in turn",
        "largest": f"of {whole}: {choice.count} by gradients, all each {choice.steps} steps",
    }[choice.way]


def terminal_table(choices: Sequence[Choice]) -> Table:
    """Return the table for the terminal."""
    table = Table(title="what each choice of learning layers costs")
    for place, title in enumerate(columns(choices)):
        table.add_column(title, justify="right" if place else "left", no_wrap=place > 0)
    for row in cells(choices):
        table.add_row(row["name"], *([row["refused"]] if row["refused"] else row["numbers"]))
    return table


def csv_text(kind: type, rows: Sequence[Any]) -> str:
    """Return rows of a dataclass as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in dataclasses.fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    return text.getvalue()
