"""``l1bn rtl generate``, ``l1bn rtl report`` and ``l1bn rtl prove``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from l1bn import tools
from l1bn.errors import UserError
from l1bn.rtl.fpga.family import FamilyName
from l1bn.rtl.silicon.liberty import DEFAULT_LIBERTY

if TYPE_CHECKING:
    from l1bn.rtl.config import UnitConfig
    from l1bn.rtl.silicon.library import Library
    from l1bn.rtl.verify.stimulus import Channels

_NORMS: tuple[Literal["l1", "l2"], ...] = ("l1", "l2")

_USAGE = """\
usage: l1bn rtl {generate,report,prove} [OPTIONS]

  generate  write the Verilog of a verified unit, and its manifest
  report    synthesize, time, simulate and measure units; JSON, Markdown, HTML
  prove     decide what holds of a unit for every input, with an SMT solver

l1bn rtl COMMAND --help lists the options of a command."""


@dataclass(frozen=True)
class GenerateConfig:
    """Write the Verilog of a training unit, and a manifest of its ports and formats.

    Attributes:
        out: Folder to write to.
        norm: L1BN, or L2BN for comparison.
        width: Bits of x, y, g, dx, γ and β, 4 to 16.
        elements: Elements per channel, a power of two; with counted, the most.
        multipliers: Multipliers of the element path; L2 takes 1 or 2, L1 too with overlap.
        sigma: Divide by σ, or by the nearest power of two (L1 only).
        passes: Statistics passes over x.
        overlap: Compute the next channels' statistics during the passes of this one.
        counted: A command sets the elements per channel, any number from 2 up.
        squarer: L2 with overlap, one pass and one multiplier: a squarer of its own for Σx².
        axi: Wrap the unit in AXI4-Stream channels.
        registers: And give it registers behind AXI4-Lite, with an interrupt, for its commands.
        check: First simulate it bit by bit against the integer model.
    """

    out: Path = Path("rtl")
    norm: Literal["l1", "l2"] = "l1"
    width: int = 8
    elements: int = 256
    multipliers: int = 1
    sigma: Literal["exact", "pow2"] = "exact"
    passes: int = 2
    overlap: bool = False
    counted: bool = False
    squarer: bool = False
    axi: bool = False
    registers: bool = False
    check: bool = True


@dataclass(frozen=True)
class ReportConfig:
    """Synthesize units, time them, simulate their netlists, and count their energy.

    Attributes:
        out: Folder for results.json, report.md, report.html and the plots.
        liberty: Cell libraries (.lib or .lib.gz), also with the option repeated; files that hold
            only a part of a library (no inverter, gate or flip-flop of their own) belong together.
            The OSU 0.18 µm library by default.
        width: Bits of the data.
        variants: all, main, or names such as l1, l1-overlap, l2, l2-one-pass-two-mult.
        elements: Elements per channel, a power of two.
        counted: Measure units in which a command sets the elements per channel; not with 2ⁿ σ.
        channels: Channels to simulate per stimulus.
        stimuli: Gaussian data, or activations and gradients of a trained network.
        recipes: Scripts for abc; each unit keeps its fastest netlist.
        parts: Measure the parts of a unit alone, too: statistic, reciprocal, normalize, gradient.
        gating: Clock gates, in every unit alike.
        cache: Folder of finished steps; an interrupted report goes on from there.
        fpga: Place and route the units on FPGAs instead; liberty, recipes and gating do not count.
        devices: Devices of that family: hx8k, up5k, up5k-dsp (its multipliers allowed), or all.
        seeds: Runs of the placer for each unit.
    """

    out: Path = Path("rtl-report")
    liberty: tuple[Path, ...] = (DEFAULT_LIBERTY,)
    width: tuple[int, ...] = (8,)
    variants: tuple[str, ...] = ("main",)
    elements: int = 256
    counted: bool = False
    channels: int = 2
    stimuli: tuple[Literal["gaussian", "activations"], ...] = ("gaussian", "activations")
    recipes: tuple[Literal["twice", "thrice", "depth"], ...] = ("twice", "thrice", "depth")
    parts: bool = True
    gating: bool = True
    cache: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(user cache)")] = None
    fpga: FamilyName | None = None
    devices: tuple[str, ...] = ()
    seeds: int = 5


@dataclass(frozen=True)
class ProveConfig:
    """Prove what holds of a unit for every input.

    Attributes:
        norm: L1BN, or L2BN for comparison.
        width: Bits of the data.
        elements: Elements per channel, a power of two.
        multipliers: As for generate.
        sigma: As for generate.
        passes: As for generate.
        overlap: As for generate.
        counted: As for generate.
        squarer: As for generate.
        bounded: Also what is proven by going through every run of a block, the reciprocal and the
            root: minutes from 5 bits on, hours at 8.
    """

    norm: Literal["l1", "l2"] = "l1"
    width: int = 4
    elements: int = 8
    multipliers: int = 1
    sigma: Literal["exact", "pow2"] = "exact"
    passes: int = 2
    overlap: bool = False
    counted: bool = False
    squarer: bool = False
    bounded: bool = True


def rtl_command(arguments: list[str]) -> int:
    """Run ``l1bn rtl``; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    name, *rest = arguments
    if name == "generate":
        return generate(tyro.cli(GenerateConfig, prog="l1bn rtl generate", args=rest))
    if name == "report":
        gathered = _gathered(rest, "--liberty")
        return report(tyro.cli(ReportConfig, prog="l1bn rtl report", args=gathered))
    if name == "prove":
        return prove(tyro.cli(ProveConfig, prog="l1bn rtl prove", args=rest))
    raise UserError(f'no command "rtl {name}"; commands: rtl generate, rtl report, rtl prove')


def _gathered(arguments: list[str], option: str) -> list[str]:
    """The arguments, with the values of an option that is repeated after its first occurrence."""
    values: list[str] = []
    others: list[str] = []
    inside = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name == option:
            inside = not equals
            values += [value] if equals else []
        elif inside and not argument.startswith("--"):
            values.append(argument)
        else:
            inside = False
            others.append(argument)
    return [*others, option, *values] if values else arguments


def _unit(config: GenerateConfig | ProveConfig) -> UnitConfig:
    """The unit that options describe."""
    from l1bn.rtl.config import UnitConfig

    try:
        return UnitConfig(**{f.name: getattr(config, f.name) for f in fields(UnitConfig)})
    except ValueError as error:
        raise UserError(str(error)) from error


def generate(config: GenerateConfig) -> int:
    """Write Verilog and manifest."""
    from l1bn.rtl import drawings
    from l1bn.rtl.unit import emit
    from l1bn.rtl.verify.latency import latencies
    from l1bn.rtl.verify.simulate import simulate
    from l1bn.rtl.verify.stimulus import extremes, gaussian

    unit = _unit(config)
    if config.out.exists() and not config.out.is_dir():
        raise UserError(f"expected --out to be a folder, got the file {config.out}")
    if config.check:
        small = replace(unit, elements=16)
        counts = (16, 13) if unit.counted else (16,)
        for count in counts:
            stimuli = gaussian(small, 2, count=count), extremes(small, count=count)
            for stimulus in stimuli:
                simulate(small, stimulus, stall=0.2)
            channels = sum(len(stimulus) for stimulus in stimuli)
            print(f"bit-exact against the integer model: {channels} channels of {count} elements")
    wrapped = {"axi": config.axi, "registers": config.registers}
    boundary = emit.describe_interface(unit, **wrapped)
    pictures = drawings.write(unit, boundary, config.out)
    clocks = [latency.row() for latency in latencies(unit)]
    written = emit.write(unit, config.out, **wrapped, pictures=pictures, clocks=clocks)
    paths = [*written.all(), *(config.out / name for name in pictures.values())]
    if config.registers:
        paths.append(testbench_file(config.out, written.source.stem))
    print(f"{emit.describe(unit)}")
    for path in paths:
        print(f"  {path}")
    return 0


def testbench_file(folder: Path, name: str) -> Path:
    """The cocotb test bench of a unit with registers, beside its Verilog."""
    source = Path(__file__).parent / "verify" / "bench_cocotb.py"
    target = folder / f"test_{name}.py"
    target.write_text(source.read_text())
    return target


def prove(config: ProveConfig) -> int:
    """Prove every claim, and print how."""
    from l1bn.rtl.formal.claims import claims
    from l1bn.rtl.formal.solver import PROGRAMS

    absent = tools.missing(*PROGRAMS)
    if absent:
        raise UserError(absent)
    unit = _unit(config)
    print(unit.name)
    for claim in claims(unit):
        if claim.bounded and not config.bounded:
            continue
        proof = claim.decide()
        how = "for ever" if proof.unbounded else f"{proof.depth} clocks, every run ends in them"
        print(f"  {claim.key}: {claim.sentence} [{how}; {proof.seconds:.1f} s]", flush=True)
    return 0


def report(config: ReportConfig) -> int:
    """Measure the units and write the report."""
    if config.fpga is not None:
        return report_fpga(config, config.fpga)
    absent = tools.missing("yosys", "iverilog", "vvp")
    if absent:
        raise tools.ToolError(absent)
    from l1bn.rtl.cache import Cache, default_folder
    from l1bn.rtl.report import comparison, flow, part_flow
    from l1bn.rtl.report import report as writer
    from l1bn.rtl.silicon import synthesis

    units, whose_parts = _units(config), _alone(config)
    technologies = synthesis.prepare_all(config.liberty)
    chosen = [(technology, *unit) for technology in technologies for unit in units]
    alone = [(technology, unit) for technology in technologies for unit in whose_parts]
    for technology in technologies:
        print(_left_out(technology.library), end="", file=sys.stderr)
    cache = Cache(config.cache or default_folder())
    effort = flow.Effort(config.recipes, config.gating)
    say = _progress(len(chosen) + len(alone))
    records, parts = [], []
    for number, (technology, key, unit) in enumerate(chosen, 1):
        record = flow.measure(
            unit, technology, _stimuli(unit, config), effort=effort, cache=cache,
            say=partial(say, number), variant=key,
        )  # fmt: skip
        records.append(record)
    for number, (technology, unit) in enumerate(alone, len(chosen) + 1):
        parts += part_flow.measure(
            unit, technology, _stimuli(unit, config), effort=effort, cache=cache,
            say=partial(say, number),
        )  # fmt: skip
    paths = writer.write(records, config.out, parts)
    for name, rows in comparison.by_stimulus(records).items():
        for row in rows:
            print(row.verdict(name))
    for path in paths:
        print(f"  {path}")
    return 0


def report_fpga(config: ReportConfig, family: FamilyName) -> int:
    """Measure the units on FPGAs and write the report."""
    from l1bn.rtl.cache import Cache, default_folder
    from l1bn.rtl.fpga import command

    asked = command.Asked(family, config.devices, config.seeds, _units(config), _alone(config))
    command.report_fpga(
        asked, lambda unit: _stimuli(unit, config), config.out,
        cache=Cache(config.cache or default_folder()), progress=_progress,
    )  # fmt: skip
    return 0


def _units(config: ReportConfig) -> list[tuple[str, UnitConfig]]:
    """The variants of a report, at each width."""
    from l1bn.rtl.variants import select

    chosen = select(config.variants)
    try:
        return [
            (variant.key, variant.config(width, config.elements, counted=config.counted))
            for width in config.width
            for variant in chosen
        ]
    except ValueError as error:
        raise UserError(str(error)) from error


def _alone(config: ReportConfig) -> list[UnitConfig]:
    """The units whose parts a report measures alone."""
    from l1bn.rtl.config import UnitConfig

    return [
        UnitConfig(norm=norm, width=width, elements=config.elements)
        for width in config.width
        for norm in _NORMS
        if config.parts
    ]


def _left_out(library: Library) -> str:
    """What of a library is not used, and why."""
    lines = [f"{library.name}: {len(library.left_out)} cells left out\n"] * bool(library.left_out)
    return "".join(lines + [f"  {name}: {why}\n" for name, why in library.left_out.items()])


def _stimuli(unit: UnitConfig, config: ReportConfig) -> dict[str, Channels]:
    from l1bn.rtl.verify import stimulus

    return {str(n): stimulus.named(n, unit, config.channels) for n in config.stimuli}


def _progress(total: int) -> Callable[[int, str], None]:
    start = time.monotonic()

    def say(number: int, line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - start), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {number}/{total} {line}", file=sys.stderr, flush=True)

    return say
