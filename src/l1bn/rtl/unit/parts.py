"""The parts of a unit alone, with ports for what the rest of the unit would give them.

The same blocks as in ``NormUnit``; what a part does not use has constant ports and is removed by
synthesis. One multiplier each, exact σ, two passes over x.
"""

from __future__ import annotations

from typing import Literal

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.blocks.element import ElementPath
from l1bn.rtl.unit.blocks.reciprocal import Divider, Root
from l1bn.rtl.unit.blocks.statistic import Statistic

PartName = Literal["statistic", "reciprocal", "normalize", "gradient"]
PARTS: tuple[PartName, ...] = ("statistic", "reciprocal", "normalize", "gradient")


def _statistic_ports(config: UnitConfig) -> dict[str, wiring.Member]:
    ports = {
        "x": In(signed(config.width)), "take": In(1), "clear": In(1), "latch": In(1),
        "deviation": In(1), "total": Out(signed(config.need.sum)),
    }  # fmt: skip
    if config.norm == "l1":
        ports["above"] = Out(config.log2_elements + 1)
        ports["high"] = Out(signed(config.need.sum))
    else:
        ports["squares"] = Out(signed(config.element))
    return ports


def _reciprocal_ports(config: UnitConfig) -> dict[str, wiring.Member]:
    spread = config.divisor if config.norm == "l1" else 2 * config.divisor
    return {
        "start": In(1), "spread": In(spread), "mantissa": Out(config.coefficient),
        "exponent": Out(config.shift_bits), "done": Out(1),
    }  # fmt: skip


def _element_ports(config: UnitConfig, gradient: bool) -> dict[str, wiring.Member]:
    word, wide = signed(config.width), signed(config.need.element)
    ports = {
        "value": In(word), "take": In(1), "load": In(1),
        "coefficient": In(signed(config.coefficient)), "offset": In(wide),
        "shift": In(config.shift_bits), "result": Out(word), "valid": Out(1),
    }  # fmt: skip
    if gradient and config.norm == "l1":
        ports |= {"above": In(1), "offset_above": In(wide)}
    if gradient and config.norm == "l2":
        ports |= {"x": In(word), "second": In(1), "slope": In(signed(config.coefficient))}
    return ports


def ports(name: PartName, config: UnitConfig) -> dict[str, wiring.Member]:
    """Ports of a part."""
    if name == "statistic":
        return _statistic_ports(config)
    if name == "reciprocal":
        return _reciprocal_ports(config)
    return _element_ports(config, name == "gradient")


class StatisticPart(wiring.Component):
    """Sums of a channel: Σx, then n and Σx above the mean (L1) or Σ(x − ⌊μ⌋)² (L2).

    Ports:
        x, take: Element, taken in clocks with ``take``.
        clear: Start a channel.
        latch: Between the passes: keep the threshold (L1).
        deviation: Stable through the second pass.
        total: Σx.
        above, high: n and Σx above the mean (L1).
        squares: Σ(x − ⌊μ⌋)² (L2).
    """

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
        super().__init__(_statistic_ports(config))

    def elaborate(self, platform: object) -> Module:
        """Wire the accumulators."""
        m = Module()
        config = self.config
        m.submodules.statistic = statistic = Statistic(config)
        total, grow = statistic.total, config.log2_elements
        m.d.comb += [
            statistic.x.eq(self.x), statistic.clear.eq(self.clear), self.total.eq(total),
            statistic.add_total.eq(self.take & ~self.deviation),
        ]  # fmt: skip
        taken = self.take & self.deviation
        if config.norm == "l1":
            level = Signal(signed(config.width), reset_less=True)
            with m.If(self.latch):
                m.d.sync += level.eq((total >> grow) + total[:grow].any())
            m.d.comb += [
                statistic.level.eq(level), statistic.add_high.eq(taken),
                self.above.eq(statistic.above), self.high.eq(statistic.high),
            ]  # fmt: skip
            return m
        m.submodules.path = path = ElementPath(config)
        a = Signal(signed(config.operand))
        m.d.comb += [
            a.eq(self.x - (total >> grow)), path.a.eq(a), path.b.eq(a), path.enter.eq(taken),
            path.load_b.eq(taken), path.use_sum.eq(1), path.clear.eq(self.clear),
            path.ready.eq(1), self.squares.eq(path.sum),
        ]  # fmt: skip
        return m


class ReciprocalPart(wiring.Component):
    """1/σ: of Σ|N·x − S| by division (L1), of N·Σx² − S² by root and division (L2).

    Ports:
        start: Load.
        spread: Σ|N·x − S|, or N·Σx² − S²; held while the part is busy.
        mantissa, exponent: 1/σ.
        done: High when idle.
    """

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
        super().__init__(_reciprocal_ports(config))

    def elaborate(self, platform: object) -> Module:
        """Wire the divider, behind the root for L2."""
        m = Module()
        config = self.config
        m.submodules.divider = divider = Divider(config)
        significant = divider.quotient[: config.coefficient - 1]
        m.d.comb += [
            divider.normalize.eq(1), divider.high.eq(config.dividend), divider.low.eq(0),
            self.mantissa.eq(Cat(Const(1, 1), significant)), self.exponent.eq(divider.zeros),
        ]  # fmt: skip
        if config.norm == "l1":
            m.d.comb += [
                divider.start.eq(self.start), divider.divisor.eq(self.spread),
                self.done.eq(divider.done),
            ]  # fmt: skip
            return m
        m.submodules.root = root = Root(config)
        waits = Signal()
        begins = Signal()
        m.d.comb += [
            root.start.eq(self.start), root.radicand.eq(self.spread),
            divider.divisor.eq(root.root), begins.eq(waits & root.done),
            divider.start.eq(begins), self.done.eq(~waits & divider.done),
        ]  # fmt: skip
        with m.If(self.start):
            m.d.sync += waits.eq(1)
        with m.Elif(begins):
            m.d.sync += waits.eq(0)
        return m


class ElementPart(wiring.Component):
    """One pass of the element path: normalize, or gradient.

    L2's gradient takes two clocks per element: g · coefficient, then x · slope.

    Ports:
        value: x (normalize) or g (gradient).
        x, second: x, and the clock of x · slope (L2's gradient).
        above: The stored bit (L1's gradient).
        take: Element taken in this clock.
        load: Load the coefficient, one clock before a pass.
        coefficient, slope, offset, offset_above, shift: Scalars of the channel, held.
        result, valid: y or dx.
    """

    def __init__(self, config: UnitConfig, *, gradient: bool) -> None:
        self.config, self.gradient = config, gradient
        super().__init__(_element_ports(config, gradient))

    def elaborate(self, platform: object) -> Module:
        """Wire the path."""
        m = Module()
        config = self.config
        m.submodules.path = path = ElementPath(config)
        m.d.comb += [
            path.a.eq(self.value), path.b.eq(self.coefficient), path.enter.eq(self.take),
            path.load_b.eq(self.load), path.emit.eq(1), path.ready.eq(1), path.shift.eq(self.shift),
            path.offset_low.eq(self.offset), self.result.eq(path.value), self.valid.eq(path.valid),
        ]  # fmt: skip
        if self.gradient and config.norm == "l1":
            m.d.comb += [path.select.eq(self.above), path.offset_high.eq(self.offset_above)]
        elif config.norm == "l1":
            m.d.comb += path.offset_high.eq(self.offset)
        if self.gradient and config.norm == "l2":
            m.d.comb += [
                path.a.eq(Mux(self.second, self.x, self.value)), path.load_b.eq(self.take),
                path.b.eq(Mux(self.second, self.slope, self.coefficient)),
                path.use_sum.eq(self.second), path.emit.eq(self.second),
            ]  # fmt: skip
        return m


def build(name: PartName, config: UnitConfig) -> wiring.Component:
    """A part of a unit."""
    if name == "statistic":
        return StatisticPart(config)
    if name == "reciprocal":
        return ReciprocalPart(config)
    return ElementPart(config, gradient=name == "gradient")
