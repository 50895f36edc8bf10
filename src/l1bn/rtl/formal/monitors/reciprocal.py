"""The reciprocal and the root lie within one unit of their last place."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Signal

from l1bn.fixed_point.norm.spec import INVERSE_K
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.formal.monitors.base import Monitor, Value
from l1bn.rtl.unit.blocks.reciprocal import Divider, Root


class ReciprocalMonitor(Monitor):
    """A ``Divider`` that normalizes 1/σ, for every σ from its floor to its largest, and every N.

    After t quotient bits, q · divisor ≤ dividend · 2ᵗ < (q + 1) · divisor. The coefficient takes
    2q + 1, the middle of that interval, so 1/σ is off by half a unit of q at most.
    """

    def __init__(self, config: UnitConfig) -> None:
        super().__init__()
        self.config = config
        self.divider = Divider(config)

    @property
    def clocks(self) -> int:
        """Clocks from the reset until every division has ended."""
        return self.config.coefficient - 1 + (1 << self.config.shift_bits) + 3

    def build(self, m: Module) -> None:
        """Start a division, and hold its quotient to the definition when it is done."""
        config, unit = self.config, self.divider
        m.submodules.dut = unit
        divisor = Signal.like(unit.divisor, reset_less=True)
        given = self.input(unit.divisor)
        dividend = self._counted(m, given) if config.counted else self._constant(m, given)
        started, bits = Signal(), Signal(6)
        m.d.comb += [
            unit.divisor.eq(divisor), unit.normalize.eq(1), unit.start.eq(self.begun & ~started),
        ]  # fmt: skip
        with m.If(~started):
            m.d.sync += divisor.eq(given)
        m.d.sync += started.eq(self.begun)
        with m.If(started & ~unit.done):
            m.d.sync += bits.eq(bits + 1)
        wide = len(unit.high) + config.coefficient + config.dividend_fraction
        scaled, below, above = Signal(wide), Signal(wide + 8), Signal(wide + 8)
        exact = Signal(wide + 8)
        m.d.comb += [
            scaled.eq(divisor << (config.divisor_scale + config.dividend_fraction)),
            below.eq(unit.quotient * scaled), above.eq(below + scaled), exact.eq(dividend << bits),
        ]  # fmt: skip
        done = started & unit.done & (bits != 0)
        within = (below <= exact) & (exact < above)
        significant = config.coefficient - 1
        self.claim(m, "within_one_unit", ~done | within)
        self.claim(m, "normalized", ~done | (unit.quotient >> (significant - 1) == 1))
        self.claim(m, "exponent_counts_the_zeros", ~done | (unit.zeros + significant == bits))
        clock = Signal(8)
        m.d.sync += clock.eq(clock + 1)
        self.claim(m, "ends", (clock < self.clocks - 2) | unit.done)

    def _constant(self, m: Module, divisor: Value) -> Value:
        """The dividend of a constant N; the divisor's range is assumed."""
        config, spec, n = self.config, self.config.spec, self.config.elements
        low = spec.deviation_floor(n) if config.norm == "l1" else spec.root_floor(n)
        self.assume(m, (divisor >= low) & (divisor <= self._largest(n)))
        m.d.comb += self.divider.high.eq(config.dividend)
        return Const(config.dividend)

    def _counted(self, m: Module, divisor: Value) -> Value:
        """The same for every N that a command may set, with the bits behind the point."""
        config, unit, fraction = self.config, self.divider, self.config.dividend_fraction
        given = self.input(Signal(config.log2_elements + 1))
        l1 = config.norm == "l1"
        largest = INVERSE_K * config.elements**2 if l1 else config.elements
        whole = Signal(range(largest + 1))
        held = Signal.like(whole, reset_less=True)
        m.d.comb += [
            whole.eq(INVERSE_K * given * given if l1 else given),
            unit.high.eq(whole >> fraction), unit.fraction.eq(whole[:fraction]),
        ]  # fmt: skip
        self.assume(m, (given >= 2) & (given <= config.elements))
        self.assume(m, (divisor > whole >> fraction) & (divisor <= self._largest(given)))
        with m.If(unit.start):
            m.d.sync += held.eq(whole)
        return held

    def _largest(self, n: Value) -> Value:
        """Σ|N·x − S| ≤ N²·2^(width-1), N·Σx² − S² ≤ (N·2^(width-1))²."""
        return (n * n if self.config.norm == "l1" else n) << (self.config.width - 1)


class RootMonitor(Monitor):
    """A ``Root``: root² ≤ radicand < (root + 1)², for every radicand."""

    def __init__(self, config: UnitConfig) -> None:
        super().__init__()
        self.root = Root(config)

    @property
    def clocks(self) -> int:
        """Clocks from the reset until the root is done."""
        return self.root.bits + 4

    def build(self, m: Module) -> None:
        """Start once, and hold the result to the definition."""
        unit = self.root
        m.submodules.dut = unit
        radicand = Signal.like(unit.radicand, reset_less=True)
        given = self.input(unit.radicand)
        started, clock = Signal(), Signal(8)
        m.d.comb += [unit.radicand.eq(given), unit.start.eq(self.begun & ~started)]
        with m.If(~started):
            m.d.sync += radicand.eq(given)
        m.d.sync += [started.eq(self.begun), clock.eq(clock + 1)]
        square, after = Signal(2 * unit.bits + 2), Signal(2 * unit.bits + 2)
        m.d.comb += [square.eq(unit.root * unit.root), after.eq(square + 2 * unit.root + 1)]
        done = started & unit.done
        self.claim(m, "root_of_the_radicand", ~done | ((square <= radicand) & (radicand < after)))
        self.claim(m, "ends", (clock < self.clocks - 2) | unit.done)
