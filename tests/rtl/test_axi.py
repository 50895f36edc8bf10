"""The AXI4-Stream wrapper: lanes, TLAST on both sides, framing errors."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from amaranth.sim import Simulator

from l1bn.rtl.axi import AxiNormUnit, lane
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.stimulus import expected, gaussian
from l1bn.rtl.top import Phase


def to_signed(value, bits):
    return value - (1 << bits) if value >> (bits - 1) else value


class Master:
    """Drives one channel forward and backward through the wrapper; gathers what comes."""

    def __init__(self, config, early_last=False):
        self.config, self.unit = config, AxiNormUnit(config)
        self.channels = gaussian(config, 1, seed=4)
        self.want = next(expected(config, self.channels))
        self.early_last, self.random = early_last, random.Random(1)
        self.results, self.lasts, self.bits = [], [], []
        self.error = None

    def run(self):
        simulator = Simulator(self.unit)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self.commands)
        simulator.add_testbench(self.feed, background=True)
        simulator.add_testbench(self.take, background=True)
        simulator.run()

    async def commands(self, ctx):
        unit, wide = self.unit, lane(self.config.width)
        mask = (1 << wide) - 1
        gamma, beta = int(self.channels.gamma[0]), int(self.channels.beta[0])
        for operation in (0, 1):
            word = (gamma & mask) | (beta & mask) << wide | operation << (2 * wide)
            ctx.set(unit.s_axis_cmd_tdata, word)
            ctx.set(unit.s_axis_cmd_tvalid, 1)
            await ctx.tick().until(unit.s_axis_cmd_tready)
            if operation:
                break
        self.error = ctx.get(unit.framing_error)

    async def feed(self, ctx):
        unit, n = self.unit, self.config.elements
        wide = lane(self.config.width)
        mask = (1 << wide) - 1
        index = 0
        while True:
            if Phase(ctx.get(unit.phase)) is Phase.SCALARS:
                ctx.set(unit.s_axis_tvalid, 0)
                await ctx.tick()
                continue
            i = index % n
            x, g = int(self.channels.x[0, i]), int(self.channels.g[0, i])
            word = (x & mask) | (g & mask) << wide | self.want.bits[i] << (2 * wide)
            ctx.set(unit.s_axis_tdata, word)
            ctx.set(unit.s_axis_tlast, int(i == n - 1 or (self.early_last and index == 3)))
            ctx.set(unit.s_axis_tvalid, 1)
            taken = False
            while not taken:
                _, _, taken = await ctx.tick().sample(unit.s_axis_tready)
            index += 1

    async def take(self, ctx):
        unit, wide = self.unit, lane(self.config.width)
        while True:
            ready = self.random.random() < 0.7
            ctx.set(unit.m_axis_tready, int(ready))
            _, _, valid, word, last = await ctx.tick().sample(
                unit.m_axis_tvalid, unit.m_axis_tdata, unit.m_axis_tlast
            )
            if valid and ready:
                self.results.append(to_signed(word & ((1 << wide) - 1), wide))
                self.bits.append(word >> wide & 1)
                self.lasts.append(last)


@pytest.mark.parametrize("width", [5, 8, 12])
def test_lanes_carry_what_the_model_says(width):
    master = Master(UnitConfig(width=width, elements=16))
    master.run()
    assert master.results == master.want.y + master.want.dx
    assert master.bits[:16] == master.want.bits
    assert master.lasts == ([0] * 15 + [1]) * 2
    assert master.error == 0


def test_early_last_is_an_error():
    master = Master(UnitConfig(width=8, elements=16), early_last=True)
    master.run()
    assert master.error == 1
