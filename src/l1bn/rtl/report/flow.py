"""From a configuration to its area, clock, energy: every step cached by content."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from l1bn.rtl.cache import Cache
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.report.records import CriticalPath, UnitCost, UnitRecord
from l1bn.rtl.silicon import cells, power, synthesis, timing
from l1bn.rtl.silicon.library import Library, fanout_of_four
from l1bn.rtl.silicon.netlist import Netlist, from_yosys
from l1bn.rtl.unit import emit
from l1bn.rtl.unit.ports import Phase, context_layout
from l1bn.rtl.verify import testbench
from l1bn.rtl.verify.stimulus import Channels

#: The simulated period is this much longer than the critical path: inputs change a little late.
MARGIN = 1.05

Say = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How much a measurement spends.

    Attributes:
        recipes: Names of abc scripts; the fastest netlist counts.
        gating: Clock gates at registers with enables, in every unit alike.
    """

    recipes: tuple[str, ...] = tuple(synthesis.RECIPES)
    gating: bool = True


def measure(
    config: UnitConfig,
    technology: synthesis.Technology,
    stimuli: dict[str, Channels],
    *,
    effort: Effort,
    cache: Cache,
    say: Say,
    variant: str = "",
) -> UnitRecord:
    """Emit, verify, synthesize, time, simulate with delays, and measure one unit.

    Args:
        config: The unit.
        technology: The library.
        stimuli: Channels by name; energy is reported for each.
        effort: How much to spend.
        cache: Where steps are kept.
        say: Called with a line per step.
        variant: Its name in a comparison.

    Raises:
        SimulationError: If the emitted Verilog or the netlist differs from the integer model.
        ToolError: If a program is missing or fails.
    """
    source = emit.verilog_text(config)
    for name, channels in stimuli.items():
        _verify(config, source, name, channels, cache, say)
    netlist, result, recipe = fastest(
        config.name, config.width, source, technology, effort, cache=cache, say=say
    )
    library = technology.library
    blocks = assign_blocks(netlist, library, config)
    return UnitRecord(
        unit=config.name,
        config=config,
        library=library.name,
        voltage=library.voltage,
        conditions=library.conditions,
        gating=effort.gating,
        recipe=recipe,
        period=result.period,
        area=netlist.area(library),
        cells=len(netlist.instances),
        registers=sum(_is_register(library, i.kind) for i in netlist.instances),
        clock_gates=_clock_gates(netlist, library),
        area_by_block=_area(netlist, library, blocks),
        path=_path(netlist, result),
        stimuli={
            name: _weigh(
                config,
                netlist,
                library,
                result,
                blocks,
                name=name,
                channels=channels,
                cache=cache,
                say=say,
            )
            for name, channels in stimuli.items()
        },
        variant=variant,
    )


def _verify(
    config: UnitConfig, source: str, name: str, channels: Channels, cache: Cache, say: Say
) -> None:
    """The emitted Verilog in Icarus, with stalls, against the integer model."""

    def compute() -> str:
        return str(testbench.run(config, [source], channels, stall=0.25).clocks)

    inputs = [source, testbench.key(config, channels, "natural")]
    _, stored = cache.text("verilog", inputs, compute)
    say(f"{config.name}: Verilog bit-exact on {name}{stored_mark(stored)}")


def stored_mark(stored: bool) -> str:
    """What a progress line says of a step that was not computed again."""
    return " (stored)" if stored else ""


def fastest(
    name: str,
    width: int,
    source: str,
    technology: synthesis.Technology,
    effort: Effort,
    *,
    cache: Cache,
    say: Say,
) -> tuple[Netlist, timing.Timing, str]:
    """The netlist with the smallest period over the synthesis recipes."""
    best: tuple[Netlist, timing.Timing, str] | None = None
    target = first_guess(technology.library, width)
    for recipe in effort.recipes:
        text, stored = synthesis.synthesize(
            source, name, technology, target, recipe=recipe, gating=effort.gating,
            cache=cache,
        )  # fmt: skip
        netlist = from_yosys(text, name)
        result = timing.analyse(netlist, technology.library)
        say(
            f"{name}: {recipe} gives {result.period:.3f} ns, "
            f"{len(netlist.instances)} cells{stored_mark(stored)}"
        )
        if best is None or result.period < best[1].period:
            best = netlist, result, recipe
    assert best is not None
    return best


def first_guess(library: Library, width: int) -> float:
    """A period to aim at [ns]: the delay of an inverter that drives four, times a depth.

    Out of reach on purpose: abc then works for speed alone.
    """
    return fanout_of_four(library.inverters()[0]) * (14 if width <= 8 else 19)


def _weigh(
    config: UnitConfig,
    netlist: Netlist,
    library: Library,
    result: timing.Timing,
    blocks: dict[str, str],
    *,
    name: str,
    channels: Channels,
    cache: Cache,
    say: Say,
) -> UnitCost:
    """Gate-level simulation with delays, then energy per element, by pass and by block."""
    verilog, delays = netlist.verilog(), cells.sdf(netlist, library, result)
    models = cells.models(library, {i.kind for i in netlist.instances})
    period = result.period * MARGIN

    def compute() -> str:
        run = testbench.run(
            config, [verilog, models], channels, period=period, delays=delays, activity=True,
            phase_nets=tuple(netlist.outputs["phase"]), order="steady",
        )  # fmt: skip
        phases = {p: [t.rises, t.falls] for p, t in run.phases.items()}
        return json.dumps({"clocks": run.clocks, "phases": phases})

    inputs = [verilog, models, delays, f"{period:.6f}", testbench.key(config, channels, "steady")]
    text, stored = cache.text("gates", inputs, compute)
    say(f"{config.name}: netlist with delays bit-exact on {name}{stored_mark(stored)}")
    run = json.loads(text)
    elements = len(channels) * config.elements
    time = run["clocks"] * result.period
    parts = {
        phase: power.energy(netlist, library, result, rises, falls, time=0.0, blocks=blocks)
        for phase, (rises, falls) in run["phases"].items()
    }
    leakage = power.energy(netlist, library, result, {}, {}, time=time).leakage
    by_block: dict[str, float] = defaultdict(float)
    for part in parts.values():
        for block, value in part.blocks.items():
            by_block[block] += value / elements
    dynamic = sum(p.switching + p.internal for p in parts.values())
    return UnitCost(
        clocks_per_element=run["clocks"] / elements,
        time_per_element=time / elements,
        energy_per_element=(dynamic + leakage) / elements,
        channels=len(channels),
        clocks=run["clocks"],
        switching=sum(p.switching for p in parts.values()) / elements,
        internal=sum(p.internal for p in parts.values()) / elements,
        clock=sum(p.clock for p in parts.values()) / elements,
        leakage=leakage / elements,
        by_phase={
            phase.name: (parts[phase.name].switching + parts[phase.name].internal) / elements
            for phase in Phase
            if phase.name in parts
        },
        by_block=dict(sorted(by_block.items())),
    )


def _is_register(library: Library, kind: str) -> bool:
    state = library.cells[kind].sequential
    return state is not None and state.kind == "ff"


def _clock_gates(netlist: Netlist, library: Library) -> int:
    latches = [library.cells[i.kind] for i in netlist.instances]
    return sum(bool(c.clock_gate) or (c.sequential is not None and c.sequential.kind == "latch")
               for c in latches)  # fmt: skip


def assign_blocks(netlist: Netlist, library: Library, config: UnitConfig) -> dict[str, str]:
    """Block of each instance.

    A register belongs to the block it is in; combinational cells belong to the block of most of
    what they drive (synthesis is flat, so a cell may serve several).
    """
    block: dict[str, str] = {}
    sinks = netlist.sinks()
    ordered = timing.order(netlist, library)
    for instance in reversed(ordered):
        cell = library.cells[instance.kind]
        nets = [instance.pins[p.name] for p in cell.outputs if p.name in instance.pins]
        if cell.sequential is not None and not cell.clock_gate:
            names = [netlist.aliases[n] for n in nets if n in netlist.aliases]
            block[instance.name] = block_of(names[0], config) if names else "control"
    for instance in reversed(ordered):
        if instance.name in block:
            continue
        cell = library.cells[instance.kind]
        votes: Counter[str] = Counter()
        for pin in cell.outputs:
            for follower, sink in sinks.get(instance.pins.get(pin.name, ""), ()):
                if library.cells[follower.kind].pins[sink].direction == "input":
                    votes[block.get(follower.name, "control")] += 1
        block[instance.name] = max(sorted(votes), key=votes.__getitem__) if votes else "control"
    return block


def block_of(name: str, config: UnitConfig) -> str:
    """Block of a register by its hierarchical name or the port that shows it."""
    head, _, rest = name.partition(".")
    if rest:
        return head.split("$")[0]
    if name.startswith("dbeta"):
        return "statistic"
    if name.startswith("snapshot["):
        bit = int(name[len("snapshot[") : -1])
        layout = context_layout(config)
        inside = [f for f, _ in layout if 0 <= bit - layout[f].offset < layout[f].width]
        return "statistic" if inside and inside[0] in ("total", "above") else "control"
    return "path" if name.startswith("result__") else "control"


def _area(netlist: Netlist, library: Library, blocks: dict[str, str]) -> dict[str, float]:
    area: dict[str, float] = defaultdict(float)
    for instance in netlist.instances:
        area[blocks[instance.name]] += library.cells[instance.kind].area
    return dict(sorted(area.items()))


def _path(netlist: Netlist, result: timing.Timing) -> CriticalPath:
    """Start, end and length of the critical path, in source names."""
    # Past the clock and its gates, the first net is a register's.
    start = next((i for i, h in enumerate(result.path) if h.arrival > 0), 0)
    first = result.path[start].net
    instance = result.endpoint.partition(".")[0]
    ends: Sequence[str] = [
        netlist.aliases[net]
        for i in netlist.instances
        if i.name == instance
        for net in i.pins.values()
        if net in netlist.aliases and net not in netlist.inputs.get("clk", [])
    ]
    return CriticalPath(
        start=netlist.aliases.get(first, first).replace("$like", "a"),
        end=ends[-1] if ends else result.endpoint,
        stages=len(result.path) - start,
    )
