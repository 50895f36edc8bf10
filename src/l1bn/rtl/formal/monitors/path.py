"""The element path: each element that enters leaves once, in order, as the equation says."""

from __future__ import annotations

from functools import reduce
from operator import and_

from amaranth.hdl import Array, Fragment, Module, Mux, Signal, signed

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.formal.monitors.base import Monitor, Value
from l1bn.rtl.unit.blocks.element import ElementPath


class PathMonitor(Monitor):
    """An ``ElementPath`` in a pass that emits, beside a queue of what is inside.

    The scalars of the channel are held, and the coefficient is loaded before the pass, as the
    unit's state machine does it. The offsets keep the bound that the widths are derived from. The
    multiplication itself is the language's operator: an element's product is read where it is made.
    """

    def __init__(self, config: UnitConfig) -> None:
        super().__init__()
        self.config = config
        self.path = ElementPath(config)
        path = self.path
        #: What of an element leaves with it, beside its value.
        self.marks = [path.last] + ([path.select] if config.norm == "l1" else [])

    def build(self, m: Module) -> None:
        """Follow the elements through the stages."""
        path, config = self.path, self.config
        m.submodules.dut = Fragment.get(path, None)
        enter, load = self.input(path.enter), self.input(path.load_b)
        self.release(m, path.a, path.b, path.ready, *self.marks)
        m.d.comb += [path.emit.eq(1), path.enter.eq(enter & path.go), path.load_b.eq(load)]
        offsets = [path.offset_low] + ([path.offset_high] if config.norm == "l1" else [])
        for port in (path.shift, *offsets):
            self._hold(m, port)
        self.assume(m, ~load | (path.empty & ~path.enter))
        room = (1 << (config.element - 1)) - (1 << (config.operand + config.coefficient - 2))
        for offset in offsets:
            self.assume(m, (offset >= -room) & (offset < room - 1))
        self._stages(m, self._queue(m))
        self._stall(m)

    def _hold(self, m: Module, port: Value) -> None:
        """A scalar of the channel: any value, and the same until the path is empty."""
        fresh, kept = self.input(port), Signal.like(port)
        m.d.comb += port.eq(Mux(self.path.empty, fresh, kept))
        m.d.sync += kept.eq(port)

    def _queue(self, m: Module) -> list[list[Signal]]:
        """Operand, marks and product of the elements inside, the oldest first."""
        path = self.path
        entering = [path.a, *self.marks, path.reduces.product]
        queue = [
            [Signal.like(field, name=f"queue{i}_{j}") for j, field in enumerate(entering)]
            for i in range(4)
        ]
        count, kept, popped = Signal(range(5)), Signal(range(5)), Signal()
        m.d.comb += [popped.eq(path.valid & path.ready), kept.eq(count - popped)]
        m.d.sync += count.eq(kept + path.enter)
        self.present = [stage["present"] for stage in path.stages]
        inside = sum(self.present[1:], path.valid + self.present[0])
        self.claim(m, "none_lost_none_doubled", count == inside)
        multiplies, at = Signal(), Signal(range(4))
        m.d.comb += [multiplies.eq(self.present[0] & path.go), at.eq(kept - 1)]
        for i, slot in enumerate(queue):
            after = queue[min(i + 1, 3)]
            for field, moved, fresh in zip(slot, after, entering, strict=True):
                m.d.sync += field.eq(Mux(popped, moved, field))
                with m.If(path.enter & (kept == i)):
                    m.d.sync += field.eq(fresh)
            with m.If(multiplies & (at == i)):
                m.d.sync += slot[-1].eq(path.reduces.multiplied)
        return queue

    def _stages(self, m: Module, queue: list[list[Signal]]) -> None:
        path, present = self.path, self.present
        operands, _, made, _ = path.reduces
        older = [path.valid + present[2] + present[1], path.valid + present[2], path.valid]
        most = 1 << (self.config.operand + self.config.coefficient - 2)
        within = (made >= -most) & (made <= most)
        self.claim(m, "product_in_range", ~present[1] | within)
        columns = [Array(column) for column in zip(*queue, strict=True)]
        for i, stage in enumerate(path.stages):
            a, *marks, product = (column[older[i]] for column in columns)
            holds = (operands[0], made, path.sum)[i]
            wanted = (a, product, self._sum(m, product, marks))[i]
            right = (holds == wanted) & stage["emit"] & (stage["last"] == marks[0])
            if len(marks) > 1:
                right &= stage["select"] == marks[1]
            if i < 2:
                right &= ~stage["use_sum"]
            if i < 2 and "second" in stage:
                right &= ~stage["second"]
            self.claim(m, f"stage_{i}_as_the_equation", ~present[i] | right)
        _, *marks, product = queue[0]
        right = path.value == self._saturated(self._sum(m, product, marks))
        self.claim(m, "output_as_the_equation", ~path.valid | right)
        right = reduce(and_, (x == y for x, y in zip(self._leaving(), marks, strict=True)))
        self.claim(m, "marks_stay_with_their_element", ~path.valid | right)

    def _leaving(self) -> list[Value]:
        path = self.path
        return [path.last_out] + ([path.select_out] if self.config.norm == "l1" else [])

    def _stall(self, m: Module) -> None:
        """A valid word waits, unchanged."""
        path, head = self.path, [self.path.value, *self._leaving()]
        was = [Signal.like(port, name=f"was{i}") for i, port in enumerate(head)]
        stalled = Signal()
        m.d.sync += stalled.eq(path.valid & ~path.ready)
        m.d.sync += [kept.eq(port) for kept, port in zip(was, head, strict=True)]
        same = reduce(and_, (kept == port for kept, port in zip(was, head, strict=True)))
        self.claim(m, "still_in_a_stall", ~stalled | (path.valid & same))

    def _sum(self, m: Module, product: Value, marks: list[Value]) -> Signal:
        """Product and offset, in more bits than the path has."""
        offset = self.path.offset_low
        if len(marks) > 1:
            offset = Mux(marks[1], self.path.offset_high, offset)
        exact = Signal(signed(self.config.element + 4), name=f"exact{len(self.claimed)}")
        m.d.comb += exact.eq(product + offset)
        return exact

    def _saturated(self, total: Value) -> Value:
        """What leaves: the sum, shifted, at the end of the format where it lies beyond."""
        data = self.config.spec.data
        shifted = (total >> self.config.spec.shift_min) >> self.path.shift
        return Mux(shifted < data.low, data.low, Mux(shifted > data.high, data.high, shifted))
