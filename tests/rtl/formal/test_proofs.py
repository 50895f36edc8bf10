"""Proofs hold on the smallest units, and a broken block breaks the claim that is about it."""

from __future__ import annotations

import inspect
import sys
import textwrap

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from l1bn import tools
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.formal import solver, structure
from l1bn.rtl.formal.claims import claims
from l1bn.rtl.formal.monitors.sums import SumsMonitor
from l1bn.rtl.formal.solver import Refuted
from l1bn.rtl.unit import emit
from l1bn.rtl.unit.axi import SkidBuffer
from l1bn.rtl.unit.axi_lite import RegisterBus
from l1bn.rtl.unit.blocks.element import ElementPath
from l1bn.rtl.unit.blocks.reciprocal import Divider, Root
from l1bn.rtl.unit.blocks.statistic import Statistic

pytestmark = pytest.mark.skipif(
    tools.missing(*solver.PROGRAMS) is not None,
    reason="needs apt-get install yosys and pip install l1bn[rtl]",
)
#: The smallest units, of which everything is decided within seconds.
SMALL = UnitConfig(width=4, elements=8)
SMALL_L2 = UnitConfig(width=4, elements=8, norm="l2")
SMALL_SIDE = UnitConfig(width=4, elements=8, overlap=True, multipliers=2)
SMALL_COUNTED = UnitConfig(width=4, elements=8, norm="l2", counted=True)


@pytest.mark.parametrize("unit", [SMALL, SMALL_L2], ids=["l1", "l2"])
def test_every_claim_holds_on_the_smallest_unit(unit):
    for claim in claims(unit):
        proof = claim.decide()
        assert proof.claims
        assert proof.unbounded is not claim.bounded


@pytest.mark.parametrize("key", ["structure", "reciprocal"])
def test_what_a_number_set_by_a_command_changes_is_proven(key):
    """The reciprocal for every number up to the largest."""
    assert decide(key, SMALL_COUNTED).claims


def decide(key, unit):
    """Decide one claim as the command does."""
    (claim,) = (claim for claim in claims(unit) if claim.key == key)
    return claim.decide()


def plant(monkeypatch, owner, method, old, new):
    """Replace a piece of a method's source, once."""
    source = textwrap.dedent(inspect.getsource(getattr(owner, method)))
    assert source.count(old) == 1
    names = dict(vars(sys.modules[owner.__module__]))
    exec(source.replace(old, new), names)
    monkeypatch.setattr(owner, method, names[method])


FAULTS = [
    ("buffer", SkidBuffer, "elaborate", "waits.eq(1)]", "waits.eq(0)]", "takes_while"),
    ("buffer", SkidBuffer, "elaborate", "self.ready_out | ~valid", "valid", "still_in_a_stall"),
    ("path", ElementPath, "elaborate", "~self.valid | self.ready", "1", "still_in_a_stall"),
    ("path", ElementPath, "_output", 'stage["last"]', "0", "marks_stay_with_their_element"),
    ("path", ElementPath, "_output", "top.all() |", "", "output_as_the_equation"),
    ("path", ElementPath, "_carry", "present.eq(entering)", "present.eq(1)", "none_lost"),
    ("sums", Statistic, "elaborate", "total + self.x", "total - self.x", "total_exact"),
    ("sums", Statistic, "elaborate", "above.eq(above + 1)", "above.eq(above + 2)", "above_exact"),
    ("sums", Statistic, "elaborate", "high + addend", "high + self.x", "high_exact"),
    ("products", ElementPath, "elaborate", "addend + product + more", "product", "sum_exact"),
    ("side products", ElementPath, "_side_product", "side + product", "product", "sum_exact"),
    ("reciprocal", Divider, "elaborate", "bit.eq(~", "bit.eq(", "within_one_unit"),
    ("reciprocal", Divider, "elaborate", "zeros + 1", "zeros + 2", "exponent"),
    ("reciprocal", Divider, "elaborate", "running.eq(0)", "running.eq(1)", "ends"),
    ("root", Root, "elaborate", "Cat(1, 0, root)", "Cat(0, 0, root)", "root_of_the_radicand"),
    ("root", Root, "elaborate", "left.eq(left - 1)", "left.eq(left)", "ends"),
]
#: Where it is not the smallest L1 unit.
UNITS = {"reciprocal": SMALL_L2, "root": SMALL_L2, "side products": SMALL_SIDE}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f[0]}: {f[4] or 'nothing'}")
def test_a_broken_block_is_caught(fault, monkeypatch):
    key, owner, method, old, new, named = fault
    plant(monkeypatch, owner, method, old, new)
    with pytest.raises(Refuted) as caught:
        decide(key, UNITS.get(key, SMALL))
    assert any(named in claim for claim in caught.value.claims), caught.value


def test_an_accumulator_a_bit_too_narrow_is_caught(monkeypatch):
    monitor = SumsMonitor(SMALL)
    whole = monitor.statistic.total
    cut = "total.eq((total + self.x)[:-2].as_signed())"
    plant(monkeypatch, Statistic, "elaborate", "total.eq(total + self.x)", cut)
    assert len(whole) == 4 + 3
    with pytest.raises(Refuted) as caught:
        solver.prove(monitor, 1)
    assert "total_exact" in caught.value.claims


def test_assumptions_that_contradict_prove_nothing(monkeypatch):
    monkeypatch.setattr(SumsMonitor, "_follow", lambda self, m, *_: self.assume(m, 0))
    with pytest.raises(Refuted, match="contradict"):
        decide("sums", SMALL_L2)


PATHS = [
    (ElementPath, "_output", "valid.eq(valid)", "valid.eq(valid & self.ready)", ""),
    (ElementPath, "_output", "value.eq(value)", "value.eq(value ^ self.ready)", ""),
    (SkidBuffer, "elaborate", "ready_in.eq(~waits)", "ready_in.eq(self.ready_out)", "_axi"),
    (RegisterBus, "elaborate", "bvalid.eq(answers)", "bvalid.eq(self.s_axi_bready)", "_registers"),
]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{p[0].__name__}: {p[3]}")
def test_a_path_that_must_not_be_is_seen(path, monkeypatch):
    """In the unit whose boundary it reaches; none of the others has it."""
    owner, method, old, new, wrapping = path
    plant(monkeypatch, owner, method, old, new)
    with pytest.raises(Refuted, match=rf"^l1_w4_n8_m1_p2{wrapping}: ERROR: Assertion failed: sel"):
        decide("structure", SMALL)


def test_a_solver_that_does_not_end_refutes_nothing(monkeypatch):
    def hangs(*_):
        raise tools.ToolError("yosys: expected to end within 1 s, it did not")

    monkeypatch.setattr(tools, "run", hangs)
    for key in ("structure", "sums"):
        with pytest.raises(tools.ToolError, match="expected to end"):
            decide(key, SMALL)


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("reg kept; always @* if (rst) kept = clk; assign phase = kept;", "latch|dlatch"),
        ("wire a, b; assign a = ~b; assign b = rst ? a : clk; assign phase = b;", "loop"),
        ("assign phase = rst; assign phase = clk;", "driver"),
    ],
    ids=["latch", "loop", "two drivers"],
)
def test_latches_loops_and_two_drivers_are_seen(statement, word):
    boundary = emit.describe_interface(SMALL)
    text = f"module {boundary.module}(input clk, input rst, output phase); {statement} endmodule"
    with pytest.raises(Refuted, match=word):
        structure.check(text, boundary, [])
