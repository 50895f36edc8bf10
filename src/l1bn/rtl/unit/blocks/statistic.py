"""Channel statistics: sums, a count and a comparison. No multiplier, no absolute value."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from l1bn.rtl.config import UnitConfig


class Statistic(wiring.Component):
    """Accumulators of one channel.

    Every operation is selected by a strobe for one clock; registers without a strobe hold, so that
    synthesis can gate their clocks.

    Ports:
        x, g: Element and gradient.
        x_high: Element whose deviation is taken (L1 with overlapped channels: not ``x``, which is
            of a later channel there).
        level: Threshold that x is compared with (L1).
        clear: Start a new channel: every register to zero.
        clear_high, clear_above: Zero that register only.
        add_total: total += x.
        add_high: high += x and above += 1 where x ≥ level (L1).
        count_high: above += 1 where x ≥ level, without the sum (L1).
        add_gradient: high += g.
        backward: Stable through a pass: ``high`` accumulates g, not x.
        load, load_total, load_above: Restore ``total`` and ``above`` of an earlier channel. Without
            ``load_total`` where the unit itself holds it.
        total: S = Σx [N steps].
        high: Sum of the elements at or above the level, or Σg.
        above: Number of elements at or above the level (L1).
        is_above: x ≥ level, combinational (L1).
    """

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
        w, wide = config.width, config.need.sum
        count = config.log2_elements + 1
        ports = {
            "x": In(signed(w)),
            "g": In(signed(w)),
            "clear": In(1),
            "clear_high": In(1),
            "add_total": In(1),
            "add_gradient": In(1),
            "load": In(1),
            "total": Out(signed(wide)),
            "high": Out(signed(wide)),
        }
        if not config.holds_total:
            ports["load_total"] = In(signed(wide))
        if config.norm == "l1" and config.overlap:
            ports["x_high"] = In(signed(w))
        if config.norm == "l1":
            ports |= {
                "level": In(signed(w)),
                "add_high": In(1),
                "backward": In(1),
                "count_high": In(1),
                "clear_above": In(1),
                "load_above": In(count),
                "above": Out(count),
                "is_above": Out(1),
            }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        """Build the accumulators."""
        m = Module()
        total = Signal.like(self.total, reset_less=True)
        high = Signal.like(self.high, reset_less=True)
        m.d.comb += [self.total.eq(total), self.high.eq(high)]
        with m.If(self.clear):
            m.d.sync += total.eq(0)
        if not self.config.holds_total:
            with m.Elif(self.load):
                m.d.sync += total.eq(self.load_total)
        with m.Elif(self.add_total):
            m.d.sync += total.eq(total + self.x)

        if self.config.norm == "l2":
            with m.If(self.clear | self.clear_high):
                m.d.sync += high.eq(0)
            with m.Elif(self.add_gradient):
                m.d.sync += high.eq(high + self.g)
            return m

        above = Signal.like(self.above, reset_less=True)
        x = self.x_high if self.config.overlap else self.x
        m.d.comb += [self.above.eq(above), self.is_above.eq(x >= self.level)]
        addend = Signal(signed(self.config.width))
        m.d.comb += addend.eq(Mux(self.backward, self.g, x))
        with m.If(self.clear | self.clear_high):
            m.d.sync += high.eq(0)
        with m.Elif(self.add_gradient | (self.add_high & self.is_above)):
            m.d.sync += high.eq(high + addend)
        with m.If(self.clear | self.clear_above):
            m.d.sync += above.eq(0)
        with m.Elif(self.load):
            m.d.sync += above.eq(self.load_above)
        with m.Elif((self.add_high | self.count_high) & self.is_above):
            m.d.sync += above.eq(above + 1)
        return m
