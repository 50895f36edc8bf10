"""The training unit: forward and backward of one channel at a time, or of channels overlapped."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit import overlap, passes
from l1bn.rtl.unit.blocks.element import ElementPath
from l1bn.rtl.unit.blocks.reciprocal import Divider, PowerOfTwo, Root
from l1bn.rtl.unit.blocks.scalar import ScalarMultiplier
from l1bn.rtl.unit.blocks.statistic import Statistic
from l1bn.rtl.unit.ports import (
    Operation,
    Phase,
    command_layout,
    context_layout,
    element_layout,
    output_layout,
)
from l1bn.rtl.unit.scalars import count
from l1bn.rtl.unit.scalars.backward import backward_states
from l1bn.rtl.unit.scalars.normalize import forward_states
from l1bn.rtl.unit.scalars.program import Parts, Registers


class NormUnit(wiring.Component):
    """Streaming training unit of L1BN or L2BN.

    A command is held until the unit takes it, which it does when the channel is finished; γ and β
    need no registers inside. ``phase`` tells which pass the unit is in, so that the feeder knows
    what to send: x for STATISTICS and DEVIATION and NORMALIZE, x and g for REDUCE, g and the stored
    bit (L1) or x (L2) for GRADIENT; each N elements long. Every stream obeys its taker: a valid
    element waits, unchanged, until it is taken.

    With overlapped channels a command is one step of a pipeline over the channels of a layer; see
    ``l1bn.rtl.unit.overlap`` for what each step does.

    A unit with ``counted`` takes N of the channels that follow with the command COUNT; after a
    reset it is the largest.

    Ports:
        command: Stream of ``command_layout``; taken when its work is complete.
        element: Stream of ``element_layout``.
        result: Stream of ``output_layout``: y after NORMALIZE, dx after GRADIENT.
        phase: ``Phase``.
        snapshot: ``context_layout`` of the current channel, valid when FORWARD is taken.
        restore: ``context_layout`` to load with RESTORE, before a BACKWARD of an earlier channel;
            where gradients overlap it is loaded by BACKWARD itself.
        dgamma: Σg·x̂ in steps of g, valid when BACKWARD is taken.
        dbeta: Σg in steps of g, valid when BACKWARD is taken.
        command_error: A command had no known operation, or a number of elements that cannot be: it
            was taken and did nothing. Cleared by reset.
    """

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
        #: Where a command sets N: it is taken.
        self.counts = Signal()
        #: Where a command sets N: the element is the last of its channel.
        self.at_last = Signal()
        super().__init__(
            {
                "command": In(stream.Signature(command_layout(config))),
                "element": In(stream.Signature(element_layout(config))),
                "result": Out(stream.Signature(output_layout(config))),
                "phase": Out(Phase),
                "snapshot": Out(context_layout(config)),
                "restore": In(context_layout(config)),
                "dgamma": Out(signed(config.quotient + 1)),
                "dbeta": Out(signed(config.need.sum)),
                "command_error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the blocks and build the state machine."""
        m = Module()
        config = self.config
        m.submodules.statistic = statistic = Statistic(config)
        m.submodules.path = path = ElementPath(config)
        m.submodules.scalar = scalar = ScalarMultiplier(config)
        registers = Registers(config)
        parts = Parts(config, statistic, path, scalar, registers)
        if config.sigma == "pow2":
            m.submodules.power = parts.power = PowerOfTwo(config)
        else:
            m.submodules.divider = parts.divider = Divider(config)
            divisor = registers.spread
            if config.counted:
                divisor = Mux(registers.by_count, registers.count, divisor)
            m.d.comb += parts.divider.divisor.eq(divisor)
        if config.norm == "l2":
            m.submodules.root = parts.root = Root(config)
        self._name_sums(parts)
        self._connect(m, parts)
        self._control(m, parts)
        return m

    def _name_sums(self, parts: Parts) -> None:
        """Which register holds what the scalar steps ask for."""
        config, path = self.config, parts.path
        held = config.holds_total
        parts.total = parts.registers.total if held else parts.statistic.total
        parts.squares = path.side if config.side else path.sum
        parts.products = path.side if config.overlaps_gradient else path.sum

    def _connect(self, m: Module, parts: Parts) -> None:
        config, statistic, path, r = self.config, parts.statistic, parts.path, parts.registers
        # The command is stable while it runs: a select that is settled long before it matters.
        self.backward = Signal()
        m.d.comb += [
            self.backward.eq(self.command.payload.operation == Operation.BACKWARD),
            statistic.x.eq(self._lane("x_ahead", "x_next", "x")),
            statistic.g.eq(self._lane("g_next", "g")),
            path.offset_low.eq(r.offset_low),
            path.shift.eq(r.shift),
            path.ready.eq(self.result.ready),
            self.result.valid.eq(path.valid),
            self.result.payload.value.eq(path.value),
            self.result.payload.last.eq(path.last_out),
            self.snapshot.total.eq(parts.total),
            self.snapshot.spread.eq(r.spread),
            self.snapshot.live.eq(r.live),
            self.snapshot.coefficient.eq(r.coefficient),
            self.snapshot.shift.eq(r.shift),
            self.dbeta.eq(statistic.high),
        ]
        if config.norm == "l2" or config.sigma == "pow2":
            m.d.comb += self.dgamma.eq(r.dgamma)
        else:
            m.d.comb += self.dgamma.eq(parts.scalar.result >> 16)
        if config.norm == "l1":
            parts.ceiling = Signal(signed(config.width))
            m.d.comb += [
                parts.ceiling.eq(self._ceiling(parts)),
                statistic.level.eq(r.threshold),
                statistic.backward.eq(self.backward),
                path.offset_high.eq(r.offset_high),
                self.result.payload.above.eq(path.select_out),
                self.snapshot.above.eq(statistic.above),
                self.snapshot.threshold.eq(r.threshold),
                statistic.load_above.eq(self.restore.above),
            ]
        if config.norm == "l1" and config.passes == 1:
            parts.guess = self.command.payload.guess
        if config.norm == "l1" and config.overlap:
            m.d.comb += statistic.x_high.eq(self.element.payload.x_next)
        if not config.holds_total:
            m.d.comb += statistic.load_total.eq(self.restore.total)
        self._operands(m, parts)

    def _ceiling(self, parts: Parts) -> Value:
        """Smallest integer at or above the mean; where N is no constant, of the last division."""
        if self.config.counted:
            return count.floor_of_mean(parts) + count.remainder_of_mean(parts).any()
        total, grow = parts.statistic.total, self.config.log2_elements
        return (total >> grow) + total[:grow].any()

    def _lane(self, *names: str) -> Value:
        """The first of the named fields that an element has."""
        fields = dict(element_layout(self.config))
        return getattr(self.element.payload, next(name for name in names if name in fields))

    def _operands(self, m: Module, parts: Parts) -> None:
        """Operands of the element path; ``a`` is x forward and g backward."""
        config, path, r = self.config, parts.path, parts.registers
        x, g = self.element.payload.x, self.element.payload.g
        self.squares = Signal()  # L2: x (less the mean) times itself
        self.half = Signal()  # L2 on one multiplier: the second half of a gradient
        self.reducing = Signal()
        centre = 0
        if config.operand > config.width:
            centre = Mux(self.squares, count.floor_of_mean(parts), 0)
        a = Signal(signed(config.operand))
        m.d.comb += [a.eq(Mux(self.backward & ~self.half, g, x) - centre), path.a.eq(a)]
        m.d.comb += path.b.eq(r.coefficient)
        if config.overlaps_gradient:
            m.d.comb += [path.a2.eq(self.element.payload.x_next)]
            m.d.comb += [path.b2.eq(self.element.payload.g_next)]
            return
        with m.If(self.reducing):
            m.d.comb += path.b.eq(x)
        if config.norm == "l2" and not config.side:
            with m.Elif(self.squares):
                m.d.comb += path.b.eq(a)
        if config.norm == "l2" and config.multipliers == 1:
            with m.Elif(self.half):
                m.d.comb += path.b.eq(r.slope)
        if config.squarer:
            m.d.comb += path.a2.eq(self.element.payload.x_next)
        elif config.side:
            ahead = self.element.payload.x_next
            m.d.comb += [
                path.a2.eq(Mux(self.squares, ahead, x)),
                path.b2.eq(Mux(self.squares, ahead, r.slope)),
            ]
        elif config.multipliers == 2:
            m.d.comb += [path.a2.eq(x), path.b2.eq(r.slope)]

    def _control(self, m: Module, parts: Parts) -> None:
        config, r = self.config, parts.registers
        self.taken = Signal()
        self.final = Signal()
        last = self._count_down(m, r.count) if config.counted else self._count_up(m)
        m.d.comb += [
            self.taken.eq(self.element.valid & self.element.ready),
            self.final.eq(self.taken & last),
            parts.path.last.eq(last),
        ]
        with m.FSM():
            self._idle(m, parts)
            payload = self.command.payload
            if config.overlap:
                after = overlap.forward_passes(m, self, parts)
            else:
                after = passes.forward_passes(m, self, parts)
            forward_states(m, parts, payload.gamma, payload.beta, "SPREAD", after)
            if config.overlaps_gradient:
                overlap.gradient_pass(m, self, parts)
                backward_states(m, parts, "COVARIANCE", "FINISH")
            else:
                passes.reduce_pass(m, self, parts)
                backward_states(m, parts, "COVARIANCE", "BEGIN_GRADIENT")
                passes.gradient_pass(m, self, parts)
            with m.State("FINISH"), m.If(parts.path.empty & parts.scalar.done):
                m.d.comb += self.command.ready.eq(1)
                m.d.sync += r.repeated.eq(0)
                m.next = "IDLE"
            if config.counted:
                count.count_states(m, parts, "COUNT", "FINISH")

    def _count_up(self, m: Module) -> Value:
        """Whether the element is the last of a power of two."""
        counter = Signal(self.config.log2_elements)
        with m.If(self.taken):
            m.d.sync += counter.eq(counter + 1)
        return counter.all()

    def _count_down(self, m: Module, number: Signal) -> Value:
        """Whether the element is the last of the number that a command has set."""
        left = Signal(self.config.log2_elements, init=self.config.elements - 1)
        m.d.comb += self.at_last.eq(left == 0)
        with m.If(self.counts):
            m.d.sync += left.eq(self.command.payload.count - 1)
        with m.Elif(self.taken):
            m.d.sync += left.eq(Mux(self.at_last, number - 1, left - 1))
        return self.at_last

    def _idle(self, m: Module, parts: Parts) -> None:
        config, r = self.config, parts.registers
        unknown = Signal()
        m.d.comb += self.command_error.eq(unknown)
        with m.State("IDLE"), m.If(self.command.valid):  # noqa: SIM117
            with m.Switch(self.command.payload.operation):
                with m.Case(Operation.FORWARD):
                    m.d.comb += [parts.statistic.clear.eq(1), parts.path.clear.eq(1)]
                    if config.norm == "l1" and config.passes == 1:
                        m.d.sync += r.threshold.eq(self.command.payload.guess)
                    if config.overlap:
                        m.next = overlap.begin_forward(m, parts)
                    else:
                        m.next = "STATISTICS"
                with m.Case(Operation.BACKWARD):
                    m.d.comb += [parts.statistic.clear_high.eq(1), parts.path.clear.eq(1)]
                    if config.overlaps_gradient:
                        m.d.comb += parts.path.clear_side.eq(1)
                        m.next = "BEGIN_GRADIENT"
                    else:
                        m.next = "REDUCE"
                with m.Case(Operation.RESTORE):
                    m.d.comb += self.command.ready.eq(1)
                    passes.load_context(m, self, parts)
                if config.counted:
                    with m.Case(Operation.COUNT):
                        self._take_count(m, r.count, unknown)
                with m.Default():
                    m.d.comb += self.command.ready.eq(1)
                    m.d.sync += unknown.eq(1)

    def _take_count(self, m: Module, number: Signal, unknown: Signal) -> None:
        """From 2 to the largest; another is as good as no command."""
        asked, most = self.command.payload.count, self.config.elements
        with m.If((asked >= 2) & (asked <= most)):
            m.d.comb += self.counts.eq(1)
            m.d.sync += number.eq(asked)
            m.next = "COUNT"
        with m.Else():
            m.d.comb += self.command.ready.eq(1)
            m.d.sync += unknown.eq(1)
