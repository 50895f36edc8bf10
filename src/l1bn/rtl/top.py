"""The training unit: forward and backward of one channel at a time."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from l1bn.rtl.backward import backward_states
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.element import ElementPath
from l1bn.rtl.normalize import forward_states
from l1bn.rtl.program import Parts, Registers
from l1bn.rtl.reciprocal import Divider, PowerOfTwo, Root
from l1bn.rtl.scalar import ScalarMultiplier
from l1bn.rtl.statistic import Statistic


class Phase(IntEnum):
    """What the unit expects next on ``element``, N times."""

    SCALARS = 0
    STATISTICS = 1
    DEVIATION = 2
    NORMALIZE = 3
    REDUCE = 4
    GRADIENT = 5


class Operation(IntEnum):
    """Commands."""

    FORWARD = 0
    BACKWARD = 1
    RESTORE = 2


def element_layout(config: UnitConfig) -> data.StructLayout:
    """Input element: x, g, and for L1 the bit ``above`` that the forward pass emitted."""
    fields: dict[str, Any] = {"x": signed(config.width), "g": signed(config.width)}
    if config.norm == "l1":
        fields["above"] = unsigned(1)
    return data.StructLayout(fields)


def output_layout(config: UnitConfig) -> data.StructLayout:
    """Output element: y or dx, the last-of-channel mark, and for L1 the bit x ≥ μ."""
    fields: dict[str, Any] = {"value": signed(config.width), "last": unsigned(1)}
    if config.norm == "l1":
        fields["above"] = unsigned(1)
    return data.StructLayout(fields)


def command_layout(config: UnitConfig) -> data.StructLayout:
    """Command: what to do, γ and β, and for one-pass L1 the previous batch's threshold."""
    fields: dict[str, Any] = {
        "operation": Operation,
        "gamma": signed(config.width),
        "beta": signed(config.width),
    }
    if config.norm == "l1" and config.passes == 1:
        fields["guess"] = signed(config.width)
    return data.StructLayout(fields)


def context_layout(config: UnitConfig) -> data.StructLayout:
    """What the backward pass needs of the forward pass: stored outside between the two."""
    fields: dict[str, Any] = {
        "total": signed(config.need.sum),
        "spread": unsigned(config.divisor),
        "live": unsigned(1),
        "coefficient": signed(config.coefficient),
        "shift": unsigned(config.shift_bits),
    }
    if config.norm == "l1":
        fields["above"] = unsigned(config.log2_elements + 1)
        fields["threshold"] = signed(config.width)
    return data.StructLayout(fields)


class NormUnit(wiring.Component):
    """Streaming training unit of L1BN or L2BN.

    A command is held until the unit takes it, which it does when the channel is finished; γ and β
    need no registers inside. ``phase`` tells which pass the unit is in, so that the feeder knows
    what to send: x for STATISTICS and DEVIATION and NORMALIZE, x and g for REDUCE, g and the stored
    bit (L1) or x (L2) for GRADIENT; each N elements long. Every stream obeys its taker: a valid
    element waits, unchanged, until it is taken.

    Ports:
        command: Stream of `command_layout`; taken when its work is complete.
        element: Stream of `element_layout`.
        result: Stream of `output_layout`: y after NORMALIZE, dx after GRADIENT.
        phase: `Phase`.
        snapshot: `context_layout` of the current channel, valid when FORWARD is taken.
        restore: `context_layout` to load with RESTORE, before a BACKWARD of an earlier channel.
        dgamma: Σg·x̂ in steps of g, valid when BACKWARD is taken.
        dbeta: Σg in steps of g, valid when BACKWARD is taken.
    """

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
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
            m.d.comb += parts.divider.divisor.eq(registers.spread)
        if config.norm == "l2":
            m.submodules.root = parts.root = Root(config)
        self._connect(m, parts)
        self._control(m, parts)
        return m

    def _connect(self, m: Module, parts: Parts) -> None:
        config, statistic, path, r = self.config, parts.statistic, parts.path, parts.registers
        grow = config.log2_elements
        # The command is stable while it runs: a select that is settled long before it matters.
        self._backward = Signal()
        m.d.comb += [
            self._backward.eq(self.command.payload.operation == Operation.BACKWARD),
            statistic.x.eq(self.element.payload.x),
            statistic.g.eq(self.element.payload.g),
            path.offset_low.eq(r.offset_low),
            path.shift.eq(r.shift),
            path.ready.eq(self.result.ready),
            self.result.valid.eq(path.valid),
            self.result.payload.value.eq(path.value),
            self.result.payload.last.eq(path.last_out),
            self.snapshot.total.eq(statistic.total),
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
                parts.ceiling.eq((statistic.total >> grow) + statistic.total[:grow].any()),
                statistic.level.eq(r.threshold),
                statistic.backward.eq(self._backward),
                path.offset_high.eq(r.offset_high),
                self.result.payload.above.eq(path.select_out),
                self.snapshot.above.eq(statistic.above),
                self.snapshot.threshold.eq(r.threshold),
                statistic.load_above.eq(self.restore.above),
            ]
        if config.norm == "l1" and config.passes == 1:
            parts.guess = self.command.payload.guess
        m.d.comb += statistic.load_total.eq(self.restore.total)
        self._operands(m, parts)

    def _operands(self, m: Module, parts: Parts) -> None:
        """Operands of the element path; ``a`` is x forward and g backward."""
        config, path, r = self.config, parts.path, parts.registers
        x, g = self.element.payload.x, self.element.payload.g
        self._squares = Signal()  # L2: x (less the mean) times itself
        self._half = Signal()  # L2 on one multiplier: the second half of a gradient
        self._reducing = Signal()
        centre = 0
        if config.operand > config.width:
            mean = parts.statistic.total >> config.log2_elements
            centre = Mux(self._squares, mean, 0)
        a = Signal(signed(config.operand))
        m.d.comb += [a.eq(Mux(self._backward & ~self._half, g, x) - centre), path.a.eq(a)]
        m.d.comb += path.b.eq(r.coefficient)
        with m.If(self._reducing):
            m.d.comb += path.b.eq(x)
        if config.norm == "l2":
            with m.Elif(self._squares):
                m.d.comb += path.b.eq(a)
        if config.norm == "l2" and config.multipliers == 1:
            with m.Elif(self._half):
                m.d.comb += path.b.eq(r.slope)
        if config.multipliers == 2:
            m.d.comb += [path.a2.eq(x), path.b2.eq(r.slope)]

    def _control(self, m: Module, parts: Parts) -> None:
        config, r = self.config, parts.registers
        counter = Signal(config.log2_elements)
        self._taken = Signal()
        self._final = Signal()
        m.d.comb += [
            self._taken.eq(self.element.valid & self.element.ready),
            self._final.eq(self._taken & counter.all()),
            parts.path.last.eq(counter.all()),
        ]
        with m.If(self._taken):
            m.d.sync += counter.eq(counter + 1)
        with m.FSM():
            self._idle(m, parts)
            if config.norm == "l1":
                self._l1_statistics(m, parts)
            else:
                self._l2_statistics(m, parts)
            payload = self.command.payload
            forward_states(m, parts, payload.gamma, payload.beta, "SPREAD", "BEGIN_NORMALIZE")
            self._normalize(m, parts)
            self._reduce(m, parts)
            backward_states(m, parts, "COVARIANCE", "BEGIN_GRADIENT")
            self._gradient(m, parts)
            with m.State("FINISH"), m.If(parts.path.empty & parts.scalar.done):
                m.d.comb += self.command.ready.eq(1)
                m.d.sync += r.repeated.eq(0)
                m.next = "IDLE"

    def _idle(self, m: Module, parts: Parts) -> None:
        config, r = self.config, parts.registers
        with m.State("IDLE"), m.If(self.command.valid):  # noqa: SIM117
            with m.Switch(self.command.payload.operation):
                with m.Case(Operation.FORWARD):
                    m.d.comb += [parts.statistic.clear.eq(1), parts.path.clear.eq(1)]
                    if config.norm == "l1" and config.passes == 1:
                        m.d.sync += r.threshold.eq(self.command.payload.guess)
                    m.next = "STATISTICS"
                with m.Case(Operation.BACKWARD):
                    m.d.comb += [parts.statistic.clear_high.eq(1), parts.path.clear.eq(1)]
                    m.next = "REDUCE"
                with m.Case(Operation.RESTORE):
                    m.d.comb += [parts.statistic.load.eq(1), self.command.ready.eq(1)]
                    m.d.sync += [
                        r.spread.eq(self.restore.spread),
                        r.live.eq(self.restore.live),
                        r.coefficient.eq(self.restore.coefficient),
                        r.shift.eq(self.restore.shift),
                    ]
                    if config.norm == "l1":
                        m.d.sync += r.threshold.eq(self.restore.threshold)

    def _l1_statistics(self, m: Module, parts: Parts) -> None:
        config, statistic, r = self.config, parts.statistic, parts.registers
        one_pass = config.passes == 1
        with m.State("STATISTICS"):
            m.d.comb += [self.phase.eq(Phase.STATISTICS), self.element.ready.eq(1)]
            m.d.comb += statistic.add_total.eq(self._taken)
            if one_pass:
                m.d.comb += statistic.add_high.eq(self._taken)
            with m.If(self._final):
                m.next = "SPREAD" if one_pass else "THRESHOLD"
        if not one_pass:
            with m.State("THRESHOLD"):
                m.d.sync += r.threshold.eq(parts.ceiling)
                m.next = "DEVIATION"
        with m.State("DEVIATION"):
            m.d.comb += [self.phase.eq(Phase.DEVIATION), self.element.ready.eq(1)]
            m.d.comb += statistic.add_high.eq(self._taken)
            with m.If(self._final):
                m.next = "SPREAD"

    def _l2_statistics(self, m: Module, parts: Parts) -> None:
        """Σx, then Σ(x − ⌊μ⌋)²; or both sums, the second of x², in one pass."""
        config, statistic, path = self.config, parts.statistic, parts.path
        with m.State("STATISTICS"):
            m.d.comb += [self.phase.eq(Phase.STATISTICS), self.element.ready.eq(path.go)]
            m.d.comb += statistic.add_total.eq(self._taken)
            if config.passes == 1:
                self._square(m, parts)
            with m.If(self._final):
                m.next = "DRAIN_SQUARES" if config.passes == 1 else "DEVIATION"
        if config.passes == 2:
            with m.State("DEVIATION"):
                m.d.comb += [self.phase.eq(Phase.DEVIATION), self.element.ready.eq(path.go)]
                self._square(m, parts)
                with m.If(self._final):
                    m.next = "DRAIN_SQUARES"
        with m.State("DRAIN_SQUARES"), m.If(path.empty):
            m.next = "SPREAD"

    def _square(self, m: Module, parts: Parts) -> None:
        path = parts.path
        m.d.comb += [
            self._squares.eq(1),
            path.enter.eq(self._taken),
            path.load_b.eq(self._taken),
            path.use_sum.eq(1),
        ]

    def _normalize(self, m: Module, parts: Parts) -> None:
        config, statistic, path = self.config, parts.statistic, parts.path
        recount = config.norm == "l1" and config.passes == 1
        self._load_coefficient(m, parts, "BEGIN_NORMALIZE", "NORMALIZE")
        with m.State("NORMALIZE"):
            m.d.comb += [
                self.phase.eq(Phase.NORMALIZE),
                self.element.ready.eq(path.go),
                path.enter.eq(self._taken),
                path.emit.eq(1),
            ]
            if config.norm == "l1":
                m.d.comb += path.select.eq(statistic.is_above)
            if recount:
                m.d.comb += statistic.count_high.eq(self._taken)
            with m.If(self._final):
                m.next = "FINISH"

    def _load_coefficient(self, m: Module, parts: Parts, state: str, goes_to: str) -> None:
        with m.State(state):
            m.d.comb += parts.path.load_b.eq(1)
            if self.config.norm == "l1" and self.config.passes == 1 and goes_to == "NORMALIZE":
                # The bit of the backward pass is about the mean, not about the guess.
                m.d.comb += parts.statistic.clear_above.eq(1)
            m.next = goes_to

    def _reduce(self, m: Module, parts: Parts) -> None:
        statistic, path = parts.statistic, parts.path
        with m.State("REDUCE"):
            m.d.comb += [
                self.phase.eq(Phase.REDUCE),
                self.element.ready.eq(path.go),
                statistic.add_gradient.eq(self._taken),
                path.enter.eq(self._taken),
                path.load_b.eq(self._taken),
                self._reducing.eq(1),
                path.use_sum.eq(1),
            ]
            with m.If(self._final):
                m.next = "DRAIN_REDUCE"
        with m.State("DRAIN_REDUCE"), m.If(path.empty):
            m.next = "COVARIANCE"

    def _gradient(self, m: Module, parts: Parts) -> None:
        config, path = self.config, parts.path
        if config.norm == "l2" and config.multipliers == 1:
            self._gradient_in_two(m, parts)
            return
        payload = self.element.payload
        self._load_coefficient(m, parts, "BEGIN_GRADIENT", "GRADIENT")
        with m.State("GRADIENT"):
            m.d.comb += [
                self.phase.eq(Phase.GRADIENT),
                self.element.ready.eq(path.go),
                path.enter.eq(self._taken),
                path.emit.eq(1),
            ]
            if config.norm == "l1":
                m.d.comb += path.select.eq(payload.above)
            else:
                m.d.comb += path.second.eq(1)
            with m.If(self._final):
                m.next = "FINISH"

    def _gradient_in_two(self, m: Module, parts: Parts) -> None:
        """L2 on one multiplier: g · coefficient, then x · slope, two clocks per element."""
        path, half = parts.path, self._half
        enter = Signal()
        with m.State("BEGIN_GRADIENT"):
            m.next = "GRADIENT"
        with m.State("GRADIENT"):
            m.d.comb += [
                self.phase.eq(Phase.GRADIENT),
                self.element.ready.eq(path.go & half),
                enter.eq(self.element.valid & path.go),
                path.enter.eq(enter),
                path.load_b.eq(enter),
                path.use_sum.eq(half),
                path.emit.eq(half),
            ]
            with m.If(enter):
                m.d.sync += half.eq(~half)
            with m.If(self._final):
                m.next = "FINISH"
