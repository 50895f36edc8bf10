"""The Liberty reader: what it reads, leaves out and refuses."""

from __future__ import annotations

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from l1bn.rtl.silicon import cells, liberty
from l1bn.rtl.silicon.liberty_syntax import LibertyError
from tiny_cells import GATED, TINY


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("library (x) { } }", "balanced braces"),
        ("cell (x) { }", "expected a library group"),
        ('library (x) { delay_model : "polynomial"; }', "expected table_lookup, got polynomial"),
    ],
)
def test_reader_errors(text, message):
    with pytest.raises(LibertyError, match=message):
        liberty.load(text)


def test_missing_library_names_the_package(tmp_path):
    with pytest.raises(LibertyError, match="apt-get install qflow-tech-osu018"):
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


def test_a_clock_gate_without_its_pins_is_left_out():
    library = liberty.load(GATED.replace("clock_gate_enable_pin : true; ", ""))
    assert library.left_out["ICG"] == "ICG: expected a pin with clock_gate_enable_pin, got none"
