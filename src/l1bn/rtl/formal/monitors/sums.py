"""Accumulators never overflow: the widths derived from the element count are enough."""

from __future__ import annotations

from amaranth.hdl import Fragment, Module, Mux, Signal, signed

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.formal.monitors.base import Monitor, Value
from l1bn.rtl.unit.blocks.element import ElementPath
from l1bn.rtl.unit.blocks.statistic import Statistic

#: Valid bit and tags of a stage of the element path.
Stage = dict[str, Signal]
#: Bits that a follower has beyond the accumulator it follows.
SPARE = 4


class SumsMonitor(Monitor):
    """A ``Statistic`` beside wider sums; at most N elements are added after a clear."""

    def __init__(self, config: UnitConfig) -> None:
        super().__init__()
        self.config = config
        self.statistic = Statistic(config)

    def build(self, m: Module) -> None:
        """Add what the strobes say, in more bits, and compare."""
        unit, config = self.statistic, self.config
        m.submodules.dut = unit
        self.release(m, unit.x, unit.g, unit.clear, unit.clear_high, unit.add_total)
        self.release(m, unit.add_gradient)
        clears = unit.clear | unit.clear_high
        x, adds, addend = unit.x, unit.add_gradient, unit.g
        if config.norm == "l1":
            self.release(m, unit.level, unit.add_high, unit.backward, unit.count_high)
            self.release(m, unit.clear_above)
            if config.overlap:
                self.release(m, unit.x_high)
                x = unit.x_high
            adds = adds | (unit.add_high & unit.is_above)
            addend = Mux(unit.backward, unit.g, x)
            self._count(m)
        self._follow(m, "total", unit.total, unit.clear, unit.add_total, unit.x)
        self._follow(m, "high", unit.high, clears, adds, addend)

    def _follow(
        self, m: Module, name: str, narrow: Value, clear: Value, add: Value, addend: Value
    ) -> None:
        """A wider sum of at most N addends; the first clear must come first."""
        wide = Signal(signed(len(narrow) + SPARE), name=f"wide_{name}")
        left = self._allowance(m, name, clear, add)
        with m.If(clear):
            m.d.sync += wide.eq(0)
        with m.Elif(add):
            m.d.sync += wide.eq(wide + addend)
        count = self.config.elements - left
        most = 1 << (self.config.width - 1)
        cleared = getattr(self, f"cleared_{name}")
        self.claim(m, f"{name}_exact", ~cleared | (narrow == wide))
        self.claim(m, f"{name}_bounded", (wide >= -most * count) & (wide <= (most - 1) * count))

    def _allowance(self, m: Module, name: str, clear: Value, add: Value) -> Signal:
        """How many more elements may be added; none are without a clear before."""
        n = self.config.elements
        left, cleared = Signal(range(n + 1), init=n, name=f"left_{name}"), Signal()
        setattr(self, f"cleared_{name}", cleared)
        with m.If(clear):
            m.d.sync += [left.eq(n), cleared.eq(1)]
        with m.Elif(add):
            m.d.sync += left.eq(left - 1)
        self.assume(m, ~add | clear | (left != 0))
        self.claim(m, f"{name}_at_most_all", left <= n)
        return left

    def _count(self, m: Module) -> None:
        unit = self.statistic
        wide = Signal(len(unit.above) + SPARE)
        clear = unit.clear | unit.clear_above
        add = (unit.add_high | unit.count_high) & unit.is_above
        left = self._allowance(m, "above", clear, add)
        with m.If(clear):
            m.d.sync += wide.eq(0)
        with m.Elif(add):
            m.d.sync += wide.eq(wide + 1)
        exact = (unit.above == wide) & (wide == self.config.elements - left)
        self.claim(m, "above_exact", ~self.cleared_above | exact)


class ProductsMonitor(Monitor):
    """A sum of products in an ``ElementPath``, in a pass that reduces, beside a wider one.

    Args:
        config: The unit.
        aside: The sum of the second multiplier or of the squarer, where it has one.
    """

    def __init__(self, config: UnitConfig, *, aside: bool = False) -> None:
        super().__init__()
        self.config = config
        self.aside = aside
        self.path = ElementPath(config)

    def build(self, m: Module) -> None:
        """Sum the products as they are made; compare when none is on its way."""
        path, config = self.path, self.config
        m.submodules.dut = Fragment.get(path, None)
        enter, clear = self.input(path.enter), self.input(path.clear)
        if self.aside:
            squares = config.squarer
            tag, load = path.aside, Signal() if squares else path.load_b2
            factors = (path.a2,) if squares else (path.a2, path.b2)
            clears, parts = path.clear_side, path.reduces_aside
        else:
            tag, load, factors = path.use_sum, path.load_b, (path.a, path.b)
            clears, parts = path.clear, path.reduces
        self.release(m, *factors, path.ready)
        m.d.comb += [
            path.enter.eq(enter & path.go), load.eq(path.enter), tag.eq(1),
            clears.eq(clear & path.empty),
        ]  # fmt: skip
        low, high = -(1 << (config.width - 1)), (1 << (config.width - 1)) - 1
        for factor in factors:
            self.assume(m, (factor >= low) & (factor <= high))
        first, second, third = path.stages
        made = first["present"] & path.go
        n = config.elements
        # Both factors of Σ(x − ⌊μ⌋)² have a bit more; the squares' own bound is the variance's.
        most = 1 << (2 * config.width - 2)
        left, cleared = Signal(range(n + 1), init=n), Signal()
        wide = Signal(signed(len(parts.sum) + SPARE))
        self.assume(m, ~path.enter | (left != 0))
        with m.If(clears):
            m.d.sync += [left.eq(n), cleared.eq(1), wide.eq(0)]
            with m.If(path.enter):
                m.d.sync += left.eq(n - 1)
        with m.Else():
            m.d.sync += left.eq(left - path.enter)
            with m.If(made):
                m.d.sync += wide.eq(wide + parts.multiplied)
        for name, factor in zip("ab", parts.operands, strict=True):
            within = (factor >= low) & (factor <= high)
            self.claim(m, f"factor_{name}_in_range", ~first["present"] | within)
        within = (parts.product <= most) & (parts.product >= -most)
        self.claim(m, "product_in_range", ~second["present"] | within)
        waiting = Mux(second["present"], parts.product, 0)
        summed = n - left - first["present"]
        self.claim(m, "at_most_all", (left <= n) & (left + first["present"] <= n))
        self.claim(m, "sum_exact", ~cleared | (parts.sum + waiting == wide))
        bounded = (wide <= most * summed) & (wide >= -most * summed)
        self.claim(m, "sum_bounded", ~cleared | bounded)
        self.claim(m, "nothing_leaves", self._tags(first, second, third) & ~path.valid)

    def _tags(self, first: Stage, second: Stage, third: Stage) -> Value:
        """What is inside is of this pass."""
        right = ~third["present"] | ~third["emit"]
        for stage in (first, second):
            tags = stage["aside" if self.aside else "use_sum"] & ~stage["emit"]
            if "second" in stage:
                tags &= ~stage["second"]
            right &= ~stage["present"] | tags
        return right
