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
from l1bn.rtl.formal.claims import claims, smallest
from l1bn.rtl.formal.monitors.buffer import BufferMonitor
from l1bn.rtl.formal.monitors.path import PathMonitor
from l1bn.rtl.formal.monitors.reciprocal import ReciprocalMonitor, RootMonitor
from l1bn.rtl.formal.monitors.sums import ProductsMonitor, SumsMonitor
from l1bn.rtl.formal.solver import Refuted
from l1bn.rtl.unit import emit
from l1bn.rtl.unit.axi import SkidBuffer
from l1bn.rtl.unit.blocks.element import ElementPath
from l1bn.rtl.unit.blocks.reciprocal import Divider, Root
from l1bn.rtl.unit.blocks.statistic import Statistic

pytestmark = pytest.mark.skipif(
    tools.missing("yosys-smtbmc", "z3") is not None,
    reason="needs apt-get install yosys and pip install l1bn[rtl]",
)
SMALL = smallest(UnitConfig())
SMALL_L2 = smallest(UnitConfig(norm="l2"))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_every_claim_holds_on_the_smallest_unit(norm):
    for claim in claims(smallest(UnitConfig(norm=norm))):
        proof = claim.decide()
        assert proof.claims
        assert proof.unbounded or proof.depth > 8


def plant(monkeypatch, owner, method, old, new):
    """Replace a piece of a method's source, once."""
    source = textwrap.dedent(inspect.getsource(getattr(owner, method)))
    assert source.count(old) == 1
    names = dict(vars(sys.modules[owner.__module__]))
    exec(source.replace(old, new), names)
    monkeypatch.setattr(owner, method, names[method])


def monitors():
    return {
        "buffer": lambda: (BufferMonitor(), 2, True),
        "path": lambda: (PathMonitor(SMALL), 1, True),
        "sums": lambda: (SumsMonitor(SMALL), 1, True),
        "products": lambda: (ProductsMonitor(SMALL), 1, True),
        "reciprocal": lambda: (ReciprocalMonitor(SMALL_L2), 16, False),
        "root": lambda: (RootMonitor(SMALL_L2), 11, False),
    }


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
    ("reciprocal", Divider, "elaborate", "bit.eq(~", "bit.eq(", "within_one_unit"),
    ("reciprocal", Divider, "elaborate", "zeros + 1", "zeros + 2", "exponent"),
    ("root", Root, "elaborate", "Cat(1, 0, root)", "Cat(0, 0, root)", "root_of_the_radicand"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f[0]}: {f[4] or 'nothing'}")
def test_a_broken_block_is_caught(fault, monkeypatch):
    key, owner, method, old, new, named = fault
    plant(monkeypatch, owner, method, old, new)
    monitor, depth, induction = monitors()[key]()
    with pytest.raises(Refuted) as caught:
        solver.prove(monitor, depth, induction=induction)
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
        solver.prove(SumsMonitor(SMALL_L2), 2)


def test_a_ready_that_depends_on_a_ready_is_seen():
    """The bare unit's does; the report names the ports."""
    boundary = emit.describe_interface(SMALL)
    pair = (boundary.streams["element"].ready, boundary.streams["result"].ready)
    with pytest.raises(Refuted, match=r"l1_w4_n8_m1_p2: ERROR: Assertion failed: selection"):
        structure.check(emit.verilog_text(SMALL), boundary, [pair])


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
