"""The AXI4-Stream wrapper: lanes, TLAST on both sides, framing errors."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from amaranth.sim import Simulator

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.axi import AxiNormUnit, lane
from l1bn.rtl.verify.simulate import steps
from l1bn.rtl.verify.stimulus import expected, gaussian


def to_signed(value, bits):
    return value - (1 << bits) if value >> (bits - 1) else value


class Master:
    """Drives channels forward and backward through the wrapper; gathers what comes."""

    def __init__(self, config, early_last=False):
        self.config, self.unit = config, AxiNormUnit(config)
        channels = gaussian(config, 1 + 2 * config.overlap, seed=4)
        self.judged = list(expected(config, channels))
        self.steps = steps(config, channels, self.judged, "natural")
        self.elements = []
        self.early_last, self.random = early_last, random.Random(1)
        self.results, self.lasts, self.bits = [], [], []
        self.error = None
        self.wide = lane(config.width)
        self.mask = (1 << self.wide) - 1

    def run(self):
        simulator = Simulator(self.unit)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self.commands)
        simulator.add_testbench(self.feed, background=True)
        simulator.add_testbench(self.take, background=True)
        simulator.run()

    def word(self, *lanes):
        return sum((value & self.mask) << (i * self.wide) for i, value in enumerate(lanes))

    async def commands(self, ctx):
        unit, contexts = self.unit, {}
        for step in self.steps:
            fields = step.command
            word = self.word(fields.get("gamma", 0), fields.get("beta", 0))
            code = int(step.operation) | fields.get("fill", 0) << 2
            ctx.set(unit.s_axis_cmd_tdata, word | code << (2 * self.wide))
            ctx.set(unit.s_axis_cmd_tvalid, 1)
            if step.loads is not None:
                ctx.set(unit.restore, contexts[step.loads])
            self.elements = [fields for _, fields in step.elements]
            while not ctx.get(unit.s_axis_cmd_tready):
                await ctx.tick()
            if step.saves is not None:
                got = ctx.get(unit.snapshot)
                contexts[step.saves] = {n: getattr(got, n) for n, _ in unit.snapshot.shape()}
            await ctx.tick()
            ctx.set(unit.s_axis_cmd_tvalid, 0)
        self.error = ctx.get(unit.framing_error)

    async def feed(self, ctx):
        unit, n, index = self.unit, self.config.elements, 0
        while True:
            if not self.elements:
                ctx.set(unit.s_axis_tvalid, 0)
                await ctx.tick()
                continue
            fields = self.elements.pop(0)
            word = self.word(fields.get("x", 0), fields.get("g", 0))
            word |= fields.get("above", 0) << (2 * self.wide)
            beside = [fields.get(name, 0) for name in unit.lanes]
            word |= self.word(*beside) << (2 * self.wide + 8)
            ctx.set(unit.s_axis_tdata, word)
            last = index % n == n - 1 or (self.early_last and index == 3)
            ctx.set(unit.s_axis_tlast, int(last))
            ctx.set(unit.s_axis_tvalid, 1)
            taken = False
            while not taken:
                _, _, taken = await ctx.tick().sample(unit.s_axis_tready)
            index += 1

    async def take(self, ctx):
        unit = self.unit
        while True:
            ready = self.random.random() < 0.7
            ctx.set(unit.m_axis_tready, int(ready))
            _, _, valid, word, last = await ctx.tick().sample(
                unit.m_axis_tvalid, unit.m_axis_tdata, unit.m_axis_tlast
            )
            if valid and ready:
                self.results.append(to_signed(word & self.mask, self.wide))
                self.bits.append(word >> self.wide & 1)
                self.lasts.append(last)


@pytest.mark.parametrize("width", [5, 8, 12])
@pytest.mark.parametrize(
    "options", [{}, {"overlap": True}, {"overlap": True, "multipliers": 2}], ids=str
)
def test_lanes_carry_what_the_model_says(width, options):
    master = Master(UnitConfig(width=width, elements=16, **options))
    master.run()
    count = len(master.judged)
    assert master.results == [r["value"] for step in master.steps for r in step.results]
    assert len(master.results) == 2 * count * 16
    assert master.bits[: 16 * count] == [b for want in master.judged for b in want.bits]
    assert master.lasts == ([0] * 15 + [1]) * 2 * count
    assert master.error == 0


def test_early_last_is_an_error():
    master = Master(UnitConfig(width=8, elements=16), early_last=True)
    master.run()
    assert master.error == 1
