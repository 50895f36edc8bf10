"""Static timing, on cells computed by hand and against OpenSTA."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from l1bn import tools
from l1bn.rtl.silicon import cells, liberty, timing
from l1bn.rtl.silicon.netlist import Instance, Netlist, NetlistError, from_yosys
from tiny_cells import RING


def test_timing_by_hand(tiny):
    result = timing.analyse(RING, tiny)
    load2, load3, load4 = 0.01, 0.01, 0.005
    clock = tiny.conditions.clock_slew
    at2 = 0.3 + clock + 2 * load2
    slew2 = 0.5 * clock + 4 * load2
    slew3 = 0.5 * slew2 + 4 * load3
    slew4 = 0.5 * slew3 + 4 * load4
    # One inversion each way: a rising end has one falling inverter (0.02) and one rising (0.01).
    at4 = at2 + (slew2 + 2 * load3) + (slew3 + 2 * load4) + 0.03
    assert result.period == pytest.approx(at4 + 0.2 + 0.2 * slew4)
    assert result.endpoint == "c1.D"
    assert [hop.instance for hop in result.path] == ["", "c1", "c2", "c3"]
    assert result.load == pytest.approx({"n1": 0.02, "n2": load2, "n3": load3, "n4": load4})


def test_loop_and_unknown_cells_are_refused(tiny):
    loop = Netlist("loop", {}, {}, [Instance("c1", "INV", {"A": "n1", "Y": "n1"}, "c1")])
    with pytest.raises(NetlistError, match="loop: expected no combinational loop"):
        timing.analyse(loop, tiny)
    strange = Netlist("strange", {}, {}, [Instance("c1", "NAND9", {"A": "n1"}, "c1")])
    with pytest.raises(NetlistError, match="cells that tiny lacks: NAND9"):
        timing.analyse(strange, tiny)
    with pytest.raises(NetlistError, match=r"expected module top, got \['other'\]"):
        from_yosys('{"modules": {"other": {}}}', "top")


def test_delays_reach_the_simulator(tiny):
    text = cells.sdf(RING, tiny, timing.analyse(RING, tiny))
    assert text.count("IOPATH A Y") == 2
    assert text.count("IOPATH CK Q") == 1
    assert "(CK => Q) = (0, 0);" in cells.model(tiny.cells["DFF"])


def report_of_opensta(folder: Path, netlist: Netlist, library: Path) -> float:
    """Largest arrival plus setup that OpenSTA finds [ns]."""
    (folder / "netlist.v").write_text(netlist.verilog())
    at = liberty.load(liberty.read_text(library)).conditions
    (folder / "script.tcl").write_text(
        f"""
read_liberty {library}
read_verilog netlist.v
link_design {netlist.name}
create_clock -period 100 clk
set_clock_transition {at.clock_slew} [get_clocks clk]
set_input_transition {at.input_slew} [all_inputs]
set_load {at.output_load} [all_outputs]
set_input_delay 0 -clock clk [all_inputs]
set_output_delay 0 -clock clk [all_outputs]
puts "SLACK [worst_slack]"
exit
"""
    )
    output = tools.run(["sta", "-exit", "script.tcl"], folder).output
    return 100 - float(output.split("SLACK")[1].split()[0])


@pytest.mark.skipif(
    shutil.which("sta") is None or not liberty.DEFAULT_LIBERTY.exists(),
    reason="needs apt-get install opensta qflow-tech-osu018",
)
def test_timing_agrees_with_opensta(tmp_path):
    """A chain of every two-input gate between registers."""
    library = liberty.load(liberty.read_text(liberty.DEFAULT_LIBERTY))
    kinds = ["NAND2X1", "NOR2X1", "XOR2X1", "AND2X2", "OR2X1", "XNOR2X1", "NAND2X1"]
    instances = [
        Instance("c1", "DFFPOSX1", {"CLK": "n1", "D": "n2", "Q": "n3"}, ""),
        Instance("c2", "DFFPOSX1", {"CLK": "n1", "D": "n3", "Q": "n4"}, ""),
    ]
    last = "n3"
    for number, kind in enumerate(kinds, 5):
        pins = {"A": last, "B": "n4", "Y": f"n{number}"}
        instances.append(Instance(f"c{number}", kind, pins, ""))
        last = f"n{number}"
    instances.append(Instance("c99", "DFFPOSX1", {"CLK": "n1", "D": last, "Q": "n99"}, ""))
    netlist = Netlist("chain", {"clk": ["n1"], "d": ["n2"]}, {"q": ["n99"]}, instances)
    ours = timing.analyse(netlist, library).period
    assert ours == pytest.approx(
        report_of_opensta(tmp_path, netlist, liberty.DEFAULT_LIBERTY), rel=3e-3
    )
