"""A unit's boundary for people: a datasheet."""

from __future__ import annotations

from collections.abc import Sequence

from l1bn.rtl.unit.emit.headers import words
from l1bn.rtl.unit.emit.interface import Interface


def markdown(
    boundary: Interface,
    title: str,
    formats: dict[str, dict[str, object]],
    pictures: dict[str, str],
    clocks: Sequence[Sequence[str]] = (),
) -> str:
    """Pictures by title, then clocks, ports, fields, codes and formats as tables."""
    level = "low" if boundary.reset_level == 0 else "high"
    lines = [
        f"# {boundary.module}", "", f"{title}.", "",
        f"Clock `{boundary.clock}`, rising edge. Reset `{boundary.reset}`, synchronous, active "
        f"{level}.",
        *_pictures(boundary, pictures), *_clocks(clocks),
        "", "## Streams", "", "| Stream | Direction | Data | Valid | Ready | Last |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, stream in boundary.streams.items():
        names = (stream.word.port, stream.valid, stream.ready, stream.last)
        ports = " | ".join(f"`{n}`" if n else "–" for n in names)
        lines.append(f"| {name} | {stream.word.direction} | {ports} |")
    lines += ["", "## Ports", "", "| Port | Direction | Bits |", "|---|---|---|"]
    lines += [f"| `{p['name']}` | {p['direction']} | {p['width']} |" for p in boundary.ports()]
    lines += ["", "## Words", "", "| Word | Field | Lowest bit | Bits | Lane | Signed |"]
    lines.append("|---|---|---|---|---|---|")
    for name, word in words(boundary).items():
        for f in word.fields:
            signed = "yes" if f.signed else "no"
            lines.append(f"| {name} | {f.name} | {f.offset} | {f.width} | {f.lane} | {signed} |")
    lines += ["", "## Codes", "", "| Code | operation | phase |", "|---|---|---|"]
    operations = {code: name for name, code in boundary.operations.items()}
    phases = {code: name for name, code in boundary.phases.items()}
    for code in range(max(*operations, *phases) + 1):
        lines.append(f"| {code} | {operations.get(code, '–')} | {phases.get(code, '–')} |")
    lines += _registers(boundary)
    lines += ["", "Any other operation is taken, does nothing, and raises `command_error`."]
    lines += ["", "## Formats", "", "| Value | Bits | Fraction bits |", "|---|---|---|"]
    lines += [
        f"| {name} | {entry['bits']} | {entry['fraction']} |"
        for name, entry in formats.items()
        if "fraction" in entry
    ]
    return "\n".join([*lines, ""])


def _pictures(boundary: Interface, pictures: dict[str, str]) -> list[str]:
    if not pictures:
        return []
    buffered = boundary.streams["result"].last  # behind AXI4-Stream
    about = "The passes are of a simulation with 8 elements, in which both ends stall."
    later = " Results are drawn before the buffer at the boundary: they leave a clock later."
    lines = ["", "## How it works", "", about + later * bool(buffered)]
    for title, file in pictures.items():
        lines += ["", f"{title}:", "", f"![{title}]({file})"]
    return lines


def _clocks(rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    about = (
        "From the clock in which a command is there to the one in which it is taken, in a "
        "simulation of the bare unit in which neither end stalls."
    )
    lines = ["", "## Latency", "", about, ""]
    lines += ["| Command | Elements per channel | Elements taken | Clocks |", "|---|---|---|---|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def _registers(boundary: Interface) -> list[str]:
    if not boundary.registers:
        return []
    about = (
        "AXI4-Lite, 32 bits, whole words. Writes to read-only (`ro`) registers, and while a "
        "command runs to anything but `status` and `interrupt_enable`, are answered with SLVERR "
        "and change nothing; so are reads of an address without a register. Signed values are read "
        "sign-extended."
    )
    lines = ["", "## Registers", "", about]
    lines += ["", "| Address | Register | Words | Access | Signed | Holds |"]
    lines.append("|---|---|---|---|---|---|")
    for r in boundary.registers:
        signed = "yes" if r.signed else "no"
        place = f"0x{r.address:02X}"
        lines.append(f"| {place} | {r.name} | {r.words} | {r.access} | {signed} | {r.about} |")
    lines += ["", "| Register | Field | Lowest bit | Bits | Meaning |", "|---|---|---|---|---|"]
    for r in boundary.registers:
        lines += [f"| {r.name} | {b.name} | {b.offset} | {b.width} | {b.about} |" for b in r.fields]
    return lines
