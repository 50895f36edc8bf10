"""How much of a unit's clock and area is luck: each unit through several scripts and names.

The names of nets decide in which order yosys and abc meet them, and so which of many equal choices
they make. Three scripts on the names as they are, and two sets of random names on the first script:

    python -m benchmarks.rtl.luck --out results/DATE-rtl-luck
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from l1bn import tools
from l1bn.rtl.cache import Cache, default_folder
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.report.flow import first_guess
from l1bn.rtl.silicon import synthesis, timing
from l1bn.rtl.silicon.liberty import DEFAULT_LIBERTY
from l1bn.rtl.silicon.netlist import from_yosys
from l1bn.rtl.unit import emit
from l1bn.rtl.variants import select
from l1bn.rtl.verify import testbench
from l1bn.rtl.verify.simulate import simulate
from l1bn.rtl.verify.stimulus import gaussian

UNITS = ("l1-overlap", "l1-overlap-two-mult", "l2-overlap", "l2-overlap-squarer",
         "l2-overlap-two-mult")  # fmt: skip
#: Script, and the seed of the names; 0 leaves them.
TRIES = (("twice", 0), ("thrice", 0), ("depth", 0), ("twice", 1), ("twice", 2))


@dataclass(frozen=True)
class Try:
    """One synthesis of one unit."""

    library: str
    width: int
    variant: str
    recipe: str
    names: int
    cells: int
    area: float
    period_ns: float
    clocks_per_element: float
    ns_per_element: float


def renamed(source: str, top: str, seed: int) -> str:
    """The same Verilog with random names inside; with seed 0, as it is."""
    if seed == 0:
        return source
    with tempfile.TemporaryDirectory(prefix="l1bn-") as name:
        (Path(name) / "unit.v").write_text(source)
        script = (
            f"read_verilog unit.v; hierarchy -top {top}; proc -norom; flatten; "
            f"rename -scramble-name -seed {seed}; write_verilog -noattr -norename renamed.v"
        )
        tools.run(["yosys", "-q", "-p", script], Path(name))
        # Icarus takes escaped names that begin with $ for system functions.
        return re.sub(r"\\\$_(\d+)_ ", r"n\1 ", (Path(name) / "renamed.v").read_text())


def tries(
    variant: str, config: UnitConfig, technology: synthesis.Technology, cache: Cache
) -> Iterator[Try]:
    """Judge, synthesize and time a unit as often as there are tries."""
    clocks = simulate(config, gaussian(config, 1), order="steady").clocks / config.elements
    library = technology.library
    for recipe, names in TRIES:
        source = renamed(emit.verilog_text(config), config.name, names)
        testbench.run(config, [source], gaussian(config, 1))
        text, _ = synthesis.synthesize(
            source, config.name, technology, first_guess(library, config.width),
            recipe=recipe, cache=cache,
        )  # fmt: skip
        netlist = from_yosys(text, config.name)
        period = timing.analyse(netlist, library).period
        yield Try(
            library.name, config.width, variant, recipe, names, len(netlist.instances),
            netlist.area(library), period, clocks, period * clocks,
        )  # fmt: skip


def main() -> None:
    """Write luck.csv once every unit is done."""
    parser = argparse.ArgumentParser(description="Spread of synthesis over scripts and names.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--liberty", type=Path, nargs="+", default=[DEFAULT_LIBERTY])
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--elements", type=int, default=256)
    parser.add_argument("--cache", type=Path, default=default_folder())
    arguments = parser.parse_args()
    found = []
    for technology in synthesis.prepare_all(tuple(arguments.liberty)):
        for variant in select(UNITS):
            config = variant.config(arguments.width, arguments.elements)
            for one in tries(variant.key, config, technology, Cache(arguments.cache)):
                print(one, file=sys.stderr, flush=True)
                found.append({
                    k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(one).items()
                })  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "luck.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
