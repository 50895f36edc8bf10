"""``l1bn rtl report --fpga``: every chosen unit on every device of a family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from l1bn import tools
from l1bn.errors import UserError
from l1bn.rtl.cache import Cache
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.fpga import flow, report
from l1bn.rtl.fpga.family import FAMILIES, Family, FamilyName, Target
from l1bn.rtl.fpga.records import FpgaRecord, compare
from l1bn.rtl.unit.parts import PARTS
from l1bn.rtl.verify.stimulus import Channels


class Asked(NamedTuple):
    """What a report on an FPGA is about.

    Attributes:
        family: Name of the family.
        devices: Keys of targets; all where empty.
        seeds: Runs of the placer for each unit.
        units: Variants and units.
        parts: Units whose parts are measured alone.
    """

    family: FamilyName
    devices: Sequence[str]
    seeds: int
    units: Sequence[tuple[str, UnitConfig]]
    parts: Sequence[UnitConfig]


def report_fpga(
    asked: Asked,
    stimuli: Callable[[UnitConfig], dict[str, Channels]],
    folder: Path,
    *,
    cache: Cache,
    progress: Callable[[int], Callable[[int, str], None]],
) -> None:
    """Measure, write the report, and print what compares.

    Args:
        asked: Units, devices and seeds.
        stimuli: The channels of a unit, by name.
        folder: Where to write.
        cache: Where steps are kept.
        progress: From the number of things to measure to what prints a line about one of them.

    Raises:
        UserError: If there is no such device, or no seed.
        ToolError: If a program is missing or fails.
    """
    family = FAMILIES[asked.family]
    devices = _devices(family, asked.devices)
    if asked.seeds < 1:
        raise UserError(f"seeds: expected 1 or more, got {asked.seeds}")
    family.router()
    absent = tools.missing("yosys", "iverilog", "vvp")
    if absent:
        raise tools.ToolError(absent)
    alone = [(part, unit) for unit in asked.parts for part in PARTS]
    say = progress(len(devices) * (len(asked.units) + len(alone)))
    records: list[FpgaRecord] = []

    def setting(device: Target) -> flow.Setting:
        return flow.Setting(
            family, device, asked.seeds, cache, partial(say, len(records) + 1)
        )  # fmt: skip

    for device in devices:
        for key, unit in asked.units:
            records.append(flow.measure_unit(key, unit, stimuli(unit), setting(device)))
        for part, unit in alone:
            records.append(flow.measure_part(part, unit, stimuli(unit), setting(device)))
    paths = report.write(records, family, folder)
    for row in compare(records, next(iter(records[0].stimuli))):
        print(row.verdict())
    for path in paths:
        print(f"  {path}")


def _devices(family: Family, keys: Sequence[str]) -> list[Target]:
    known = {target.key: target for target in family.targets}
    for key in keys:
        if key not in known:
            raise UserError(f"devices: expected some of {', '.join(known)}; got {key!r}")
    return [target for target in family.targets if not keys or target.key in keys]
