"""From a unit, or a part of one, to its cells on an FPGA, its work and its routed clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from l1bn.rtl.cache import Cache
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.fpga import route
from l1bn.rtl.fpga.family import Family, Target
from l1bn.rtl.fpga.netlist import FpgaNetlist
from l1bn.rtl.fpga.records import FpgaRecord, Work
from l1bn.rtl.unit import emit
from l1bn.rtl.unit.parts import PartName
from l1bn.rtl.verify import part_bench, part_vectors, testbench
from l1bn.rtl.verify.stimulus import Channels

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """Where and how units are measured.

    Attributes:
        family: The family of FPGAs.
        target: The device.
        seeds: Runs of the placer.
        cache: Where steps are kept.
        say: Called with a line per step.
    """

    family: Family
    target: Target
    seeds: int
    cache: Cache
    say: Say


def measure_unit(
    variant: str, config: UnitConfig, stimuli: dict[str, Channels], setting: Setting
) -> FpgaRecord:
    """Synthesize a unit, judge its netlist bit by bit, count its work, place and route it.

    Args:
        variant: Its name in a comparison.
        config: The unit.
        stimuli: Channels by name.
        setting: Where and how.

    Raises:
        SimulationError: If the netlist differs from the integer model.
        ToolError: If a program is missing or fails, or the unit does not fit.
    """
    netlist = _synthesize(emit.verilog_text(config), config.name, setting)
    sources = [netlist.verilog(), setting.family.models()]

    def work(channels: Channels) -> Work:
        run = testbench.run(config, sources, channels, activity=True, order="steady")
        elements = len(channels) * config.elements
        moved = sum(netlist.moved_pins(moves) for moves in run.phases.values())
        return Work(run.clocks / elements, moved / elements)

    counted = {}
    for label, channels in stimuli.items():
        inputs = [*sources, testbench.key(config, channels, "steady")]
        counted[label] = _counted(config.name, label, inputs, channels, work, setting)
    return FpgaRecord(
        kind="unit", name=variant, norm=config.norm, width=config.width,
        target=setting.target.label, resources=netlist.resources(),
        mhz=_clocks(netlist, setting), stimuli=counted,
    )  # fmt: skip


def measure_part(
    part: PartName, config: UnitConfig, stimuli: dict[str, Channels], setting: Setting
) -> FpgaRecord:
    """The same of a part of a unit alone; errors are those of ``measure_unit``."""
    top = part_bench.top_name(part, config)
    netlist = _synthesize(part_bench.verilog_text(part, config), top, setting)
    sources = [netlist.verilog(), setting.family.models()]

    def work(channels: Channels) -> Work:
        clocks = part_vectors.vectors(part, config, channels)
        moves = part_bench.run(part, config, sources, clocks)
        elements = len(channels) * config.elements
        return Work(len(clocks) / elements, netlist.moved_pins(moves) / elements)

    counted = {}
    for label, channels in stimuli.items():
        key = part_bench.key(part, config, part_vectors.vectors(part, config, channels))
        counted[label] = _counted(top, label, [*sources, key], channels, work, setting)
    return FpgaRecord(
        kind="part", name=part, norm=config.norm, width=config.width,
        target=setting.target.label, resources=netlist.resources(),
        mhz=_clocks(netlist, setting), stimuli=counted,
    )  # fmt: skip


def _synthesize(source: str, top: str, setting: Setting) -> FpgaNetlist:
    return route.synthesize(source, top, setting.family, setting.target, cache=setting.cache)


def _counted(
    name: str,
    label: str,
    inputs: list[str],
    channels: Channels,
    work: Callable[[Channels], Work],
    setting: Setting,
) -> Work:
    """Work on one stimulus, from the cache where the same netlist has done it before."""

    def compute() -> str:
        done = work(channels)
        return json.dumps([done.clocks, done.moved_pins])

    text, stored = setting.cache.text("fpga-work", inputs, compute)
    mark = " (stored)" if stored else ""
    setting.say(f"{name}: {setting.target.label}: netlist bit-exact on {label}{mark}")
    return Work(*json.loads(text))


def _clocks(netlist: FpgaNetlist, setting: Setting) -> tuple[float, ...]:
    found = []
    for seed in range(1, setting.seeds + 1):
        found.append(route.routed_mhz(netlist, setting.target, seed=seed, cache=setting.cache))
        setting.say(f"{netlist.top}: {setting.target.label}: seed {seed}: {found[-1]:.1f} MHz")
    return tuple(found)
