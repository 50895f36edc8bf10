"""What synthesis is given, and libraries it was not written for."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from l1bn import tools
from l1bn.rtl.cache import Cache
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.report import flow
from l1bn.rtl.silicon import cells, liberty, synthesis
from l1bn.rtl.silicon.liberty_syntax import LibertyError
from l1bn.rtl.verify import stimulus
from tiny_cells import GATED, TINY


def test_clock_gate_pins_come_from_the_library():
    technology = synthesis._prepare([GATED])
    assert technology.gate == (
        "  ICG gate (.PHI(CLK), .ON(enable), .OUT(gated), .SCAN(1'b0));"
    )  # fmt: skip
    model = cells.model(technology.library.cells["ICG"])
    assert "always @* if (~PHI) enable = ON | SCAN;" in model
    assert "assign OUT = PHI & enable;" in model


def test_parts_of_a_library_are_one_library(tmp_path):
    """Files that hold only some kinds of cells, beside a whole library."""
    inverter = TINY[: TINY.index("  cell (DFF)")] + "}\n"
    register = TINY[: TINY.index("  cell (INV)")] + TINY[TINY.index("  cell (DFF)") :]
    gates = GATED[: GATED.index("  cell (INV)")] + GATED[GATED.index("  cell (AND)") :]
    paths = []
    for name, text in (("a", inverter), ("whole", GATED), ("b", register), ("c", gates)):
        text = text.replace("library (tiny)", f"library (tiny_{name})")
        paths.append(tmp_path / f"{name}.lib")
        paths[-1].write_text(text)
    parts, whole = synthesis.prepare_all(paths)
    assert whole.name == "tiny_whole"
    assert parts.name == "tiny"
    assert set(parts.library.cells) == {"INV", "DFF", "AND", "ICG"}
    merged = liberty.load(parts.text)  # what yosys and abc read
    assert set(merged.cells) == set(parts.library.cells)
    assert merged.cells["DFF"] == parts.library.cells["DFF"]


def test_what_a_library_lacks_is_refused_by_name(tmp_path):
    broken = GATED.replace("area : 10;", "area : large;")
    with pytest.raises(LibertyError, match=r"flip-flop .* left out 1: DFF \(cell DFF: area"):
        synthesis._prepare([broken])
    with pytest.raises(LibertyError, match="clock_gating_integrated_cell latch_posedge"):
        synthesis._prepare([GATED.replace(": latch_posedge_precontrol", ": latch_negedge")])


def test_a_tool_that_dies_falls_back(tmp_path, monkeypatch):
    """abc may die of a library: it is called again, more plainly."""
    scripts = []

    def run(arguments, folder):
        scripts.append((folder / "script.ys").read_text())
        if len(scripts) < 3:
            raise tools.ToolError("yosys failed with status 134: abc")
        netlist = '{"modules": {"top": {"ports": {}, "cells": {}, "netnames": {}}}}'
        (folder / "netlist.json").write_text(netlist)
        return "", 0.0

    monkeypatch.setattr(synthesis.tools, "run", run)
    technology = synthesis._prepare([GATED])
    text = synthesis._run("", "top", technology, "strash", False)
    assert '"top"' in text
    called = [next(line for line in s.splitlines() if line.startswith("abc")) for s in scripts]
    assert called == list(synthesis._MAPS)


LIBRARIES = Path(__file__).parents[4] / "shared" / "liberty"


@pytest.mark.skipif(not LIBRARIES.exists(), reason="needs the cell libraries in ../shared/liberty")
@pytest.mark.parametrize(
    ("names", "gate"),
    [
        (["nangate45_typ.lib.gz"], "CLKGATE_X1 gate (.CK(CLK), .E(enable), .GCK(gated))"),
        (["asap7sc7p5t_INVBUF_RVT_TT_nldm_220122.lib.gz",
          "asap7sc7p5t_SEQ_RVT_TT_nldm_220123.lib.gz",
          "asap7sc7p5t_SIMPLE_RVT_TT_nldm_211120.lib.gz"],
         "ICGx1_ASAP7_75t_R gate (.CLK(CLK), .ENA(enable), .GCLK(gated), .SE(1'b0))"),
    ],
    ids=["nangate45", "asap7"],
)  # fmt: skip
def test_other_libraries_go_through_the_flow(names, gate, tmp_path):
    """A small unit: netlist, delays, simulation bit for bit, energy."""
    (technology,) = synthesis.prepare_all([LIBRARIES / name for name in names])
    assert gate in technology.gate
    config = UnitConfig(width=4, elements=8)
    channels = {"gaussian": stimulus.gaussian(config, 1)}
    record = flow.measure(
        config, technology, channels, effort=flow.Effort(recipes=("twice",)), cache=Cache(None),
        say=lambda line: None,
    )  # fmt: skip
    assert record.clock_gates > 5
    assert record.stimuli["gaussian"].energy_per_element > 0
