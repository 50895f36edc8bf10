"""The folded squarer, for every value."""

from __future__ import annotations

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator

from l1bn.rtl.unit.blocks.element import folded_square


@pytest.mark.parametrize("width", [4, 5, 8])
def test_every_square(width):
    value, square = Signal(signed(width)), Signal(signed(2 * width))
    m = Module()
    m.d.comb += square.eq(folded_square(value))
    seen = []

    async def bench(context):
        for number in range(-(1 << (width - 1)), 1 << (width - 1)):
            context.set(value, number)
            await context.delay(1e-9)
            seen.append((number, context.get(square)))

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(seen) == 1 << width
    assert all(got == number * number for number, got in seen)
