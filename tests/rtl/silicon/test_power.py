"""Energy, on cells computed by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from l1bn.rtl.silicon import power, timing
from tiny_cells import RING


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
