"""Signals of a simulation, clock by clock, from its trace."""

from __future__ import annotations

import bisect
import re
from pathlib import Path

#: Time and value of every change, by signal.
Changes = dict[str, list[tuple[int, str]]]


def read_vcd(path: Path) -> Changes:
    """Changes of every signal: time and value; enumerations come as text."""
    names: dict[str, list[str]] = {}
    changes: Changes = {}
    time = 0
    for line in path.read_text().splitlines():
        declared = re.match(r"\$var \S+ \d+ (\S+) (\S+)", line)
        if declared:
            names.setdefault(declared[1], []).append(declared[2])
        elif line.startswith("#"):
            time = int(line[1:])
        else:
            found = re.match(r"b([01xz]+) (\S+)$|([01])(\S+)$|s(\S+) (\S+)$", line)
            if found:
                value = found[1] or found[3] or found[5]
                for name in names.get(found[2] or found[4] or found[6], []):
                    changes.setdefault(name, []).append((time, value))
    return changes


def sampled(changes: Changes) -> dict[str, list[str]]:
    """What each signal is when the clock rises."""
    rises = sorted({time for time, value in changes["clk"] if value == "1"})
    found = {}
    for name, values in changes.items():
        times = [time for time, _ in values]
        # The last change before the edge.
        places = [bisect.bisect_left(times, rise) - 1 for rise in rises]
        found[name] = [values[max(place, 0)][1] for place in places]
    return found


def integer(value: str, width: int, *, signed: bool) -> int:
    """A word of bits as a number; a trace leaves out its leading zeros."""
    found = int(value, 2)
    return found - (1 << width) if signed and found >> (width - 1) else found
