"""The element path: multiply, add, shift, saturate. One element per clock, four register stages.

    stage 0  operand registers      a, b
    stage 1  product register       a · b                (second product: L2 with two multipliers)
    stage 2  sum register           product + offset     or accumulator + product
    stage 3  output register        saturate(sum >> shift)

The same path reduces (Σg·x, and Σx² for L2) and scales (y and dx). Operand registers load only what
a pass multiplies, so the multiplier is still in every other pass. The output holds the pipeline
while its taker is not ready.
"""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from l1bn.rtl.config import UnitConfig

#: Tags that no stage after the sum asks for.
_EARLY = ("use_sum", "second", "aside")


class Reduction(NamedTuple):
    """What a sum of products is made of.

    Attributes:
        operands: Registers of the factors.
        multiplied: Their product, as it is made.
        product: Register of the product.
        sum: The accumulator.
    """

    operands: tuple[Signal, Signal]
    multiplied: Signal
    product: Signal
    sum: Signal


def folded_square(value: Signal) -> Value:
    """A square from half the partial products: those of two different bits are equal in pairs.

    With the sign s and the bits u below it, value² is u² + s·2**n·(2**(n-2) − u). Row i of u² is
    4**i · (u_i + 4·u_i·u[i+1:]). No row has a sign to extend: the sum wraps at 2n bits.
    """
    n = len(value)
    sign, below = value[n - 1], value[: n - 1]
    rows = []
    for i in range(n - 1):
        above = below[i + 1 :]
        doubled = above & below[i].replicate(len(above)) if len(above) else Const(0, 1)
        rows.append(Cat(Const(0, 2 * i), below[i], Const(0, 1), doubled))
    # −u is ~u + 1 − 2**(n-1), which leaves s·2**n·(~u + 1) − s·2**(2n-2).
    rows.append(Cat(Const(0, n), ~below & sign.replicate(n - 1)))
    rows.append(Cat(Const(0, n), sign, Const(0, n - 3), sign, sign))
    while len(rows) > 1:
        rows = [sum(rows[i : i + 2], Const(0, 1))[: 2 * n] for i in range(0, len(rows), 2)]
    return rows[0].as_signed()


class ElementPath(wiring.Component):
    """Multiplier, accumulator and output stage.

    Ports:
        enter: Take ``a`` (and ``b``, ``a2``) into the pipeline; only while ``go``.
        load_b: Load the second operand register.
        a, b: Operands.
        second, a2, b2: Add a2 · b2 to this element (L2 with two multipliers).
        aside, load_b2, clear_side, side: Accumulate a2 · b2, of another channel, in ``side`` (two
            multipliers and overlapped channels), or a2 · a2 where there is a squarer.
        emit: The element leaves at the output; else it only accumulates.
        use_sum: Add to the sum register instead of to an offset.
        select: Which of the two offsets (L1's bit).
        last: Last element of the channel, passed along.
        clear: Zero the sum register; only while ``empty``.
        offset_low, offset_high: Offsets by ``select``; L2 has ``offset_low`` only.
        shift: Right shift beyond the smallest one.
        go: Pipeline advances in this clock.
        empty: No element is inside.
        sum: The sum register.
        value, select_out, last_out, valid, ready: Output stream.
    """

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
        c = config.coefficient
        ports = {
            "enter": In(1),
            "load_b": In(1),
            "a": In(signed(config.operand)),
            "b": In(signed(c)),
            "emit": In(1),
            "use_sum": In(1),
            "last": In(1),
            "clear": In(1),
            "offset_low": In(signed(config.need.element)),
            "shift": In(config.shift_bits),
            "go": Out(1),
            "empty": Out(1),
            "sum": Out(signed(config.element)),
            "value": Out(signed(config.width)),
            "last_out": Out(1),
            "valid": Out(1),
            "ready": In(1),
        }
        if config.norm == "l1":
            ports |= {
                "select": In(1),
                "select_out": Out(1),
                "offset_high": In(signed(config.need.element)),
            }
        if config.squarer:
            ports["a2"] = In(signed(config.width))
        if config.multipliers == 2:
            b2 = c if config.norm == "l2" else config.width
            ports |= {"a2": In(signed(config.width)), "b2": In(signed(b2))}
        if config.multipliers == 2 and config.norm == "l2":
            ports["second"] = In(1)
        if config.side:
            ports |= {
                "aside": In(1),
                "clear_side": In(1),
                "side": Out(signed(config.need.product)),
            }
        if config.side and not config.squarer:
            ports["load_b2"] = In(1)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        """Build the pipeline."""
        m = Module()
        config = self.config
        go = Signal()
        m.d.comb += [go.eq(~self.valid | self.ready), self.go.eq(go)]

        tags = [("emit", self.emit), ("use_sum", self.use_sum), ("last", self.last)]
        if config.norm == "l1":
            tags.append(("select", self.select))
        if config.multipliers == 2 and config.norm == "l2":
            tags.append(("second", self.second))
        if config.side:
            tags.append(("aside", self.aside))
        stages = self.stages = self._carry(m, tags, go)
        present = [stage["present"] for stage in stages]
        m.d.comb += self.empty.eq(~(present[0] | present[1] | present[2] | self.valid))

        a, b = Signal.like(self.a, reset_less=True), Signal.like(self.b, reset_less=True)
        with m.If(self.enter):
            m.d.sync += a.eq(self.a)
        with m.If(self.load_b):
            m.d.sync += b.eq(self.b)
        product = Signal(signed(len(a) + len(b)), reset_less=True)
        multiplied = Signal.like(product)
        m.d.comb += multiplied.eq(a * b)
        self.reduces = Reduction((a, b), multiplied, product, self.sum)
        with m.If(present[0] & go):
            m.d.sync += product.eq(multiplied)

        total = Signal.like(self.sum, reset_less=True)
        offset = self.offset_low
        if config.norm == "l1":
            offset = Mux(stages[1]["select"], self.offset_high, self.offset_low)
        addend = Signal.like(total)
        m.d.comb += [addend.eq(Mux(stages[1]["use_sum"], total, offset)), self.sum.eq(total)]
        more: Signal | int = 0
        if config.side:
            more = self._side_product(m, stages, go)
        elif config.multipliers == 2:
            more = self._second_product(m, stages, go)
        with m.If(self.clear):
            m.d.sync += total.eq(0)
        with m.Elif(present[1] & go):
            m.d.sync += total.eq(addend + product + more)

        self._output(m, stages[2], total, go)
        return m

    def _carry(
        self, m: Module, tags: list[tuple[str, Signal]], go: Signal
    ) -> list[dict[str, Signal]]:
        """Valid bit and tags of each of the three inner stages."""
        stages: list[dict[str, Signal]] = []
        for index in range(3):
            entering = self.enter if index == 0 else stages[-1]["present"]
            present = Signal(name=f"present_{index}")
            with m.If(go):
                m.d.sync += present.eq(entering)
            kept = [(n, v) for n, v in tags if index < 2 or n not in _EARLY]
            # One word per stage, so that one clock gate serves it.
            word = Signal(len(kept), name=f"tags_{index}", reset_less=True)
            sources = [v if index == 0 else stages[-1][n] for n, v in kept]
            with m.If(go & entering):
                m.d.sync += word.eq(Cat(*sources))
            stage = {name: word[i] for i, (name, _) in enumerate(kept)}
            stages.append({"present": present, **stage})
        return stages

    def _second_product(self, m: Module, stages: list[dict[str, Signal]], go: Signal) -> Signal:
        """L2's second multiplier; its operands move in the gradient pass only."""
        a2 = Signal.like(self.a2, reset_less=True)
        product = Signal(signed(len(self.a2) + len(self.b2)), reset_less=True)
        active = Signal.like(product)
        with m.If(self.enter & self.second):
            m.d.sync += a2.eq(self.a2)
        with m.If(stages[0]["present"] & stages[0]["second"] & go):
            m.d.sync += product.eq(a2 * self.b2)
        m.d.comb += active.eq(Mux(stages[1]["second"], product, 0))
        return active

    def _side_product(self, m: Module, stages: list[dict[str, Signal]], go: Signal) -> Signal | int:
        """What multiplies beside the first: it reduces another channel, or adds (L2)."""
        adds = self.config.norm == "l2" and not self.config.squarer
        a2 = b2 = Signal.like(self.a2, reset_less=True)
        if not self.config.squarer:
            b2 = Signal.like(self.b2, reset_less=True)
        product = Signal(signed(len(a2) + len(b2)), reset_less=True)
        side = Signal.like(self.side, reset_less=True)
        m.d.comb += self.side.eq(side)
        moves, multiplies = self.aside, stages[0]["aside"]
        if adds:
            moves, multiplies = moves | self.second, multiplies | stages[0]["second"]
        with m.If(self.enter & moves):
            m.d.sync += a2.eq(self.a2)
        multiplied = Signal.like(product)
        if self.config.squarer:
            m.d.comb += multiplied.eq(folded_square(a2))
        else:
            with m.If(self.load_b2):
                m.d.sync += b2.eq(self.b2)
            m.d.comb += multiplied.eq(a2 * b2)
        self.reduces_aside = Reduction((a2, b2), multiplied, product, self.side)
        with m.If(stages[0]["present"] & multiplies & go):
            m.d.sync += product.eq(multiplied)
        with m.If(self.clear_side):
            m.d.sync += side.eq(0)
        with m.Elif(stages[1]["present"] & stages[1]["aside"] & go):
            m.d.sync += side.eq(side + product)
        if not adds:
            return 0
        active = Signal.like(product)
        m.d.comb += active.eq(Mux(stages[1]["second"], product, 0))
        return active

    def _output(self, m: Module, stage: dict[str, Signal], total: Signal, go: Signal) -> None:
        """Shift, saturate and hold the result until it is taken."""
        config = self.config
        shifted = Signal(signed(len(total) - config.spec.shift_min))
        m.d.comb += shifted.eq((total >> config.spec.shift_min) >> self.shift)
        top = shifted[config.width - 1 :]
        fits = top.all() | ~top.any()
        limit = Mux(shifted[-1], config.spec.data.low, config.spec.data.high)
        value = Signal.like(self.value, reset_less=True)
        valid = Signal()
        last = Signal(reset_less=True)
        m.d.comb += [self.value.eq(value), self.valid.eq(valid), self.last_out.eq(last)]
        leaving = stage["present"] & stage["emit"]
        with m.If(go):
            m.d.sync += valid.eq(leaving)
        with m.If(go & leaving):
            m.d.sync += [
                value.eq(Mux(fits, shifted[: config.width].as_signed(), limit)),
                last.eq(stage["last"]),
            ]
        if config.norm == "l1":
            select = Signal(reset_less=True)
            m.d.comb += self.select_out.eq(select)
            with m.If(go & leaving):
                m.d.sync += select.eq(stage["select"])
