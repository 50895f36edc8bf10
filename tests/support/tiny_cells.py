"""A cell library small enough to compute by hand, and a netlist of its cells."""

from __future__ import annotations

from l1bn.rtl.silicon.netlist import Instance, Netlist

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
