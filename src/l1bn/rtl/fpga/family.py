"""FPGA families: their devices, their programs, and what their cells are."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from l1bn import tools

FamilyName = Literal["ice40"]


@dataclass(frozen=True)
class Target:
    """A device of a family, and whether its multipliers may be used.

    Attributes:
        key: Name on the command line.
        label: Name in tables.
        place: Options of nextpnr.
        synthesize: Options of yosys' ``synth_`` command.
    """

    key: str
    label: str
    place: tuple[str, ...]
    synthesize: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """A family of FPGAs that open tools place and route.

    Attributes:
        name: Its name, also that of yosys' ``synth_`` command.
        programs: What places and routes it; the first that is there.
        install: The command that installs the last of them.
        targets: Its devices, the fastest first.
        luts: LUTs that a cell takes, by kind.
        multipliers: Kinds of cells that multiply.
        memories: Kinds of cells that hold a block of RAM.
        cells: yosys' files of the cells' ports.
        clock_pins: Pins that the clock drives, by the first letters of a cell's kind.
    """

    name: FamilyName
    programs: tuple[str, ...]
    install: str
    targets: tuple[Target, ...]
    luts: Mapping[str, int]
    multipliers: frozenset[str]
    memories: frozenset[str]
    cells: str
    clock_pins: tuple[str, ...]

    def router(self) -> str:
        """The program that places and routes.

        Raises:
            ToolError: If there is none, with the command that installs one.
        """
        for program in self.programs:
            if shutil.which(program, path=tools.search_path()):
                return program
        raise tools.ToolError(f"{self.programs[0]}: not found; install with: {self.install}")

    def models(self) -> str:
        """Verilog models of the cells, from yosys' own folder, one text."""
        folder = Path(tools.find("yosys")).resolve().parent.parent / "share" / "yosys" / self.name
        path = folder / "cells_sim.v"
        if not path.is_file():
            raise tools.ToolError(
                f"expected yosys' cell models at {path}, found none; install yosys with its data"
            )
        lines = path.read_text().splitlines()
        text = "\n".join(_included(line, folder) for line in lines)
        # Without it, inputs get default values in a syntax that Icarus does not know.
        return f"`define NO_ICE40_DEFAULT_ASSIGNMENTS\n{text}"


def _included(line: str, folder: Path) -> str:
    if line.startswith("`include"):
        return (folder / line.split('"')[1]).read_text()
    return line


FAMILIES: dict[FamilyName, Family] = {
    "ice40": Family(
        name="ice40",
        programs=("nextpnr-ice40",),
        install="apt-get install nextpnr-ice40",
        # The HX parts have no multipliers, the UltraPlus have, and are slower.
        targets=(
            Target("hx8k", "HX8K", ("--hx8k", "--package", "ct256")),
            Target("up5k", "UP5K, LUTs only", ("--up5k", "--package", "sg48")),
            Target("up5k-dsp", "UP5K, DSPs", ("--up5k", "--package", "sg48"), ("-dsp",)),
        ),
        luts={"SB_LUT4": 1},
        multipliers=frozenset({"SB_MAC16"}),
        memories=frozenset({"SB_RAM40_4K"}),
        cells="+/ice40/cells_sim.v",
        clock_pins=("C", "CLK"),
    ),
}
