"""``l1bn continual``."""

from __future__ import annotations

import dataclasses
import sys

from l1bn.recipes.continual.config import ContinualConfig
from l1bn.recipes.options import parse_options

# A paragraph is a line: help breaks every text but this one.
_TEXT = """Learn tasks one after the other, in float and in integers.

Tasks are new classes of a data set, or its classes seen in another way.

Rehearsal draws from a buffer of int8 images or activations.

results.json has every accuracy, table.csv their means, matrices.svg heat maps.

The same command continues an interrupted comparison and repeats no run."""


def continual_command(arguments: list[str]) -> int:
    """Compare learners over a stream of tasks; return the exit code."""
    config, quiet = parse_options(ContinualConfig(), "l1bn continual", _TEXT, arguments)
    if quiet:
        config = dataclasses.replace(config, progress=False)
    config.validate()
    from l1bn.recipes.continual.report import table_text, write_report
    from l1bn.recipes.continual.run import compare

    records = compare(config, say=_say if config.progress else _silent)
    print(table_text(records))
    table, maps = write_report(records, config.out)
    print(f"\ntable: {table.resolve()}\nheat maps: {maps.resolve()}")
    return 0


def _say(line: str) -> None:
    print(line)
    sys.stdout.flush()


def _silent(line: str) -> None:
    del line
