"""The Liberty reader, and timing and power on cells small enough to compute by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from l1bn.rtl import tools
from l1bn.rtl.cache import Cache
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.report import flow
from l1bn.rtl.silicon import cells, liberty, power, synthesis, timing
from l1bn.rtl.silicon.netlist import Instance, Netlist, NetlistError, from_yosys
from l1bn.rtl.verify import stimulus

# Delay = 1·slew + 2·load + 0.01, transition = 0.5·slew + 4·load: linear, so exact in a table.
TINY = """
library (tiny) {
  delay_model : table_lookup;
  time_unit : "1ns"; leakage_power_unit : "1nW"; capacitive_load_unit (1, pf);
  nom_voltage : 2.0;
  lu_table_template (t) { variable_1 : input_net_transition;
    variable_2 : total_output_net_capacitance; index_1 ("0, 1"); index_2 ("0, 1"); }
  lu_table_template (s) { variable_1 : related_pin_transition;
    variable_2 : constrained_pin_transition; index_1 ("0, 1"); index_2 ("0, 1"); }
  power_lut_template (p) { variable_1 : input_transition_time; index_1 ("0, 1"); }
  cell (INV) { area : 3; cell_leakage_power : 5;
    pin (A) { direction : input; capacitance : 0.01; }
    pin (Y) { direction : output; function : "A'";
      timing () { related_pin : "A"; timing_sense : negative_unate;
        cell_rise (t) { values ("0.01, 2.01", "1.01, 3.01"); }
        cell_fall (t) { values ("0.02, 2.02", "1.02, 3.02"); }
        rise_transition (t) { values ("0, 4", "0.5, 4.5"); }
        fall_transition (t) { values ("0, 4", "0.5, 4.5"); } }
      internal_power () { related_pin : "A";
        rise_power (t) { values ("0.001, 0.101", "0.011, 0.111"); }
        fall_power (t) { values ("0.002, 0.002", "0.002, 0.002"); } } } }
  cell (DFF) { area : 10; cell_leakage_power : 20;
    ff (IQ, IQN) { clocked_on : "CK"; next_state : "D"; }
    pin (CK) { direction : input; capacitance : 0.02; clock : true;
      internal_power () { rise_power (p) { values ("0.03, 0.13"); }
        fall_power (p) { values ("0.04, 0.04"); } } }
    pin (D) { direction : input; capacitance : 0.005;
      timing () { related_pin : "CK"; timing_type : setup_rising;
        rise_constraint (s) { values ("0.1, 0.3", "0.1, 0.3"); }
        fall_constraint (s) { values ("0.2, 0.4", "0.2, 0.4"); } } }
    pin (Q) { direction : output; function : "IQ";
      timing () { related_pin : "CK"; timing_type : rising_edge; timing_sense : non_unate;
        cell_rise (t) { values ("0.3, 2.3", "1.3, 3.3"); }
        cell_fall (t) { values ("0.3, 2.3", "1.3, 3.3"); }
        rise_transition (t) { values ("0, 4", "0.5, 4.5"); }
        fall_transition (t) { values ("0, 4", "0.5, 4.5"); } } } }
}
"""

#: A register, two inverters in a row, back to the register.
RING = Netlist(
    "ring",
    {"clk": ["n1"]},
    {},
    [
        Instance("c1", "DFF", {"CK": "n1", "D": "n4", "Q": "n2"}, "c1"),
        Instance("c2", "INV", {"A": "n2", "Y": "n3"}, "c2"),
        Instance("c3", "INV", {"A": "n3", "Y": "n4"}, "c3"),
    ],
)


@pytest.fixture(scope="module")
def tiny():
    return liberty.load(TINY)


def test_reader(tiny):
    assert (tiny.name, tiny.voltage) == ("tiny", 2.0)
    inverter, register = tiny.cells["INV"], tiny.cells["DFF"]
    assert inverter.area == 3
    assert inverter.leakage == pytest.approx(5e-9)
    assert register.sequential is not None
    assert register.sequential.data == "D"
    rise = inverter.pins["Y"].arcs[0].delay[0]
    assert rise(0.25, 0.5) == pytest.approx(0.25 + 1.0 + 0.01)
    assert rise(2.0, 3.0) == pytest.approx(2.0 + 6.0 + 0.01)  # extrapolated
    # The clock's slew is the first index here: the reader turns the table.
    setup = register.pins["D"].arcs[0].constraint[1]
    assert setup(0.5, 0.9) == pytest.approx(0.3)


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


def test_power_by_hand(tiny):
    result = timing.analyse(RING, tiny)
    rises = {"n1": 10, "n2": 3, "n3": 3, "n4": 2}
    falls = {"n1": 10, "n2": 3, "n3": 3, "n4": 3}
    got = power.energy(RING, tiny, result, rises, falls, time=100.0)
    square = 2.0**2
    switching = 0.5 * square * (20 * 0.02 + 6 * 0.01 + 6 * 0.01 + 5 * 0.005)
    assert got.switching == pytest.approx(switching)
    clock = 10 * (0.03 + 0.1 * tiny.conditions.clock_slew) + 10 * 0.04
    slew2, slew3 = result.slew["n2"][0], result.slew["n3"][0]
    inverters = 3 * (0.001 + 0.01 * slew2 + 0.1 * 0.01) + 3 * 0.002
    inverters += 2 * (0.001 + 0.01 * slew3 + 0.1 * 0.005) + 3 * 0.002
    assert got.internal == pytest.approx(clock + inverters)
    assert got.clock == pytest.approx(clock + 0.5 * square * 20 * 0.02)
    assert got.leakage == pytest.approx((20e-9 + 2 * 5e-9) * 100.0 * 1e3)
    assert sum(got.blocks.values()) == pytest.approx(switching + clock + inverters)


def test_loop_and_unknown_cells_are_refused(tiny):
    loop = Netlist("loop", {}, {}, [Instance("c1", "INV", {"A": "n1", "Y": "n1"}, "c1")])
    with pytest.raises(NetlistError, match="loop: expected no combinational loop"):
        timing.analyse(loop, tiny)
    strange = Netlist("strange", {}, {}, [Instance("c1", "NAND9", {"A": "n1"}, "c1")])
    with pytest.raises(NetlistError, match="cells that tiny lacks: NAND9"):
        timing.analyse(strange, tiny)
    with pytest.raises(NetlistError, match=r"expected module top, got \['other'\]"):
        from_yosys('{"modules": {"other": {}}}', "top")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("library (x) { } }", "balanced braces"),
        ("cell (x) { }", "expected a library group"),
        ('library (x) { delay_model : "polynomial"; }', "expected table_lookup, got polynomial"),
    ],
)
def test_reader_errors(text, message):
    with pytest.raises(liberty.LibertyError, match=message):
        liberty.load(text)


def test_missing_library_names_the_package(tmp_path):
    with pytest.raises(liberty.LibertyError, match="apt-get install qflow-tech-osu018"):
        liberty.read_text(tmp_path / "none.lib")


@pytest.mark.parametrize(
    ("function", "verilog"),
    [
        ("(!(A B))", "(~(A & B))"),
        ("A'", "(~A)"),
        ("(A&B) | (!C)", "(A & B) | (~C)"),
        ("A*B+C^D", "A & B | (C) ^ (D)"),
        ("1", "1'b1"),
    ],
)
def test_functions(function, verilog):
    assert cells.verilog_function(function) == verilog


@pytest.mark.parametrize("function", ["A B)", "(A", "A +", "A # B"])
def test_function_errors(function):
    with pytest.raises(cells.FunctionError, match="cell function"):
        cells.verilog_function(function)


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
    output, _ = tools.run(["sta", "-exit", "script.tcl"], folder)
    return 100 - float(output.split("SLACK")[1].split()[0])


@pytest.mark.skipif(
    shutil.which("sta") is None or not tools.DEFAULT_LIBERTY.exists(),
    reason="needs apt-get install opensta qflow-tech-osu018",
)
def test_timing_agrees_with_opensta(tmp_path):
    """A chain of every two-input gate between registers."""
    library = liberty.load(liberty.read_text(tools.DEFAULT_LIBERTY))
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
        report_of_opensta(tmp_path, netlist, tools.DEFAULT_LIBERTY), rel=3e-3
    )


def in_tiny(old, new):
    assert old in TINY
    return liberty.load(TINY.replace(old, new, 1))


def test_a_missing_semicolon_ends_at_the_next_statement():
    """As in ASAP7; yosys reads it so, too."""
    before_attribute = in_tiny(
        "area : 3; cell_leakage_power : 5;", "area : 3 cell_leakage_power : 5;"
    )
    assert before_attribute.cells["INV"].area == 3
    assert before_attribute.cells["INV"].leakage == pytest.approx(5e-9)
    before_group = in_tiny("cell_leakage_power : 5;", "cell_leakage_power : 5")
    assert before_group.cells["INV"].leakage == pytest.approx(5e-9)
    assert before_group.cells["INV"].pins["A"].capacitance == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("area : 10;", "area : large;", "cell DFF: area: expected a number, got 'large'"),
        ('next_state : "D";', "", "ff: no data"),
        ('function : "IQ";', "", "pin Q: no function"),
        ("capacitance : 0.005;", 'capacitance : "?";', "pin D: capacitance: expected a number"),
        ('rise_constraint (s) { values ("0.1, 0.3", "0.1, 0.3"); }', "rise_constraint (s) { }",
         "rise_constraint: expected values, got none"),
        ("ff (IQ, IQN)", 'statetable ("CK D", "IQ")', "a state table"),
    ],
)  # fmt: skip
def test_a_cell_that_cannot_be_used_is_left_out_and_listed(old, new, reason):
    library = in_tiny(old, new)
    assert set(library.cells) == {"INV"}
    assert reason in library.left_out["DFF"]


def test_a_leakage_state_without_a_value_is_no_state(tiny):
    library = in_tiny(
        "cell_leakage_power : 5;", "leakage_power () { } leakage_power () { value : 7; }"
    )
    assert library.cells["INV"].leakage == pytest.approx(7e-9)


GATE = """
  cell (ICG) { area : 12; clock_gating_integrated_cell : latch_posedge_precontrol;
    statetable ("PHI ON SCAN", "IQ") { }
    pin (PHI) { direction : input; capacitance : 0.01; clock_gate_clock_pin : true; }
    pin (ON) { direction : input; capacitance : 0.01; clock_gate_enable_pin : true; }
    pin (SCAN) { direction : input; capacitance : 0.01; clock_gate_test_pin : true; }
    pin (OUT) { direction : output; state_function : "PHI & IQ"; clock_gate_out_pin : true; } }
}
"""
GATED = TINY.rstrip().removesuffix("}") + """
  cell (AND) { area : 4;
    pin (A) { direction : input; capacitance : 0.01; }
    pin (B) { direction : input; capacitance : 0.01; }
    pin (Y) { direction : output; function : "A B"; } }
""" + GATE  # fmt: skip


def test_clock_gate_pins_come_from_the_library():
    technology = synthesis._prepare([GATED])
    assert technology.gate == (
        "  ICG gate (.PHI(CLK), .ON(enable), .OUT(gated), .SCAN(1'b0));"
    )  # fmt: skip
    model = cells.model(technology.library.cells["ICG"])
    assert "always @* if (~PHI) enable = ON | SCAN;" in model
    assert "assign OUT = PHI & enable;" in model


def test_a_clock_gate_without_its_pins_is_left_out():
    library = liberty.load(GATED.replace("clock_gate_enable_pin : true; ", ""))
    assert library.left_out["ICG"] == "ICG: expected a pin with clock_gate_enable_pin, got none"


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
    with pytest.raises(
        liberty.LibertyError, match=r"flip-flop .* left out 1: DFF \(cell DFF: area"
    ):
        synthesis._prepare([broken])
    with pytest.raises(liberty.LibertyError, match="clock_gating_integrated_cell latch_posedge"):
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
    assert record["clock_gates"] > 5
    assert record["stimuli"]["gaussian"]["energy_per_element"] > 0
