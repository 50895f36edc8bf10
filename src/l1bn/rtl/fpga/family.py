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
class Family:
    """A family of FPGAs that open tools place and route.

    Attributes:
        name: Its name, also that of yosys' ``synth_`` command.
        programs: What places and routes it; the first that is there.
        install: The command that installs the last of them.
        logic, dsp: Device with multipliers forbidden and allowed, as options of nextpnr.
        forbid, allow: The same for yosys.
        luts: LUTs that a cell takes, by kind.
        multipliers: Kinds of cells that multiply.
        memories: Kinds of cells that hold a block of RAM.
        cells: yosys' files of the cells' ports.
        clock_pins: Pins that the clock drives, by the first letters of a cell's kind.
    """

    name: FamilyName
    programs: tuple[str, ...]
    install: str
    logic: tuple[str, ...]
    dsp: tuple[str, ...]
    forbid: tuple[str, ...]
    allow: tuple[str, ...]
    luts: Mapping[str, int]
    multipliers: frozenset[str]
    memories: frozenset[str]
    cells: str
    clock_pins: tuple[str, ...]

    def device(self, *, dsp: bool) -> tuple[str, ...]:
        """Options of nextpnr that name the device."""
        return self.dsp if dsp else self.logic

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
        logic=("--hx8k", "--package", "ct256"),
        # The HX parts have no multipliers, the UltraPlus have, and are slower.
        dsp=("--up5k", "--package", "sg48"),
        forbid=(),
        allow=("-dsp",),
        luts={"SB_LUT4": 1},
        multipliers=frozenset({"SB_MAC16"}),
        memories=frozenset({"SB_RAM40_4K"}),
        cells="+/ice40/cells_sim.v",
        clock_pins=("C", "CLK"),
    ),
}
