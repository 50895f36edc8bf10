"""Area, clock and energy of the parts of a unit, each synthesized alone."""

from __future__ import annotations

import json

from l1bn.rtl.cache import Cache
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.report import flow
from l1bn.rtl.report.records import Cost, PartRecord
from l1bn.rtl.silicon import cells, power, synthesis
from l1bn.rtl.unit.parts import PARTS, PartName
from l1bn.rtl.verify import part_bench, part_vectors
from l1bn.rtl.verify.stimulus import Channels


def measure(
    config: UnitConfig,
    technology: synthesis.Technology,
    stimuli: dict[str, Channels],
    *,
    effort: flow.Effort,
    cache: Cache,
    say: flow.Say,
) -> list[PartRecord]:
    """Verify, synthesize, time, simulate with delays, and measure each part of a unit.

    Arguments and errors are those of ``l1bn.rtl.report.flow.measure``.
    """
    return [
        _measure(name, config, technology, stimuli, effort, cache=cache, say=say) for name in PARTS
    ]  # fmt: skip


def _measure(
    name: PartName,
    config: UnitConfig,
    technology: synthesis.Technology,
    stimuli: dict[str, Channels],
    effort: flow.Effort,
    *,
    cache: Cache,
    say: flow.Say,
) -> PartRecord:
    source, top = part_bench.verilog_text(name, config), part_bench.top_name(name, config)
    library = technology.library
    netlist, result, recipe = flow.fastest(
        top, config.width, source, technology, effort, cache=cache, say=say
    )  # fmt: skip
    gates = [netlist.verilog(), cells.models(library, {i.kind for i in netlist.instances})]
    delays = cells.sdf(netlist, library, result)
    period = result.period * flow.MARGIN
    costs = {}
    for label, channels in stimuli.items():
        clocks = part_vectors.vectors(name, config, channels)

        def compute(clocks: list[part_vectors.Clock] = clocks) -> str:
            part_bench.run(name, config, [source], clocks)
            moved = part_bench.run(name, config, gates, clocks, period=period, delays=delays)
            return json.dumps([moved.rises, moved.falls])

        inputs = [source, *gates, delays, f"{period:.6f}", part_bench.key(name, config, clocks)]
        text, stored = cache.text("part", inputs, compute)
        say(f"{top}: Verilog and netlist bit-exact on {label}{flow.stored_mark(stored)}")
        rises, falls = json.loads(text)
        elements = len(channels) * config.elements
        time = len(clocks) * result.period
        energy = power.energy(netlist, library, result, rises, falls, time=time)
        costs[label] = Cost(
            clocks_per_element=len(clocks) / elements,
            time_per_element=time / elements,
            energy_per_element=energy.total / elements,
        )
    return PartRecord(
        part=name,
        norm=config.norm,
        width=config.width,
        library=library.name,
        recipe=recipe,
        period=result.period,
        area=netlist.area(library),
        cells=len(netlist.instances),
        stimuli=costs,
    )
