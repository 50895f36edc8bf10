"""AXI4-Stream wrapper: byte-aligned lanes, TLAST on the last element of a pass."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.ports import Phase, context_layout, element_layout
from l1bn.rtl.unit.top import NormUnit


def lane(bits: int) -> int:
    """Width of a byte-aligned AXI lane that holds so many bits [bit]."""
    return -(-bits // 8) * 8


class AxiNormUnit(wiring.Component):
    """A `NormUnit` behind AXI4-Stream channels.

    Lanes, from bit 0 up, each sign-extended to whole bytes:

    ========== ==============================================================================
    s_axis     x, g, for L1 one byte with the stored bit; where channels overlap, then x_next,
               x_ahead, g_next, those that the unit has. TLAST marks the N-th element
    m_axis     y or dx, and for L1 one byte with the bit x ≥ μ. TLAST marks the N-th element
    s_axis_cmd γ, β, for one-pass L1 the guess, and one byte: 0 forward, 1 backward, 2 restore;
               where channels overlap, 4 more for a step that fills the pipeline
    ========== ==============================================================================

    Ports:
        s_axis_*, m_axis_*, s_axis_cmd_*: The streams.
        phase: `Phase`: what the unit expects on s_axis.
        snapshot, restore, dgamma, dbeta: As `NormUnit`.
        framing_error: An s_axis TLAST came early or was missing; cleared by reset.
    """

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
        wide = lane(config.width)
        l1 = config.norm == "l1"
        guess = l1 and config.passes == 1
        self.unit = NormUnit(config)
        fields = [name for name, _ in element_layout(config)]
        self.lanes = [name for name in ("x_next", "x_ahead", "g_next") if name in fields]
        context = context_layout(config)
        super().__init__(
            {
                "s_axis_tdata": In((2 + len(self.lanes)) * wide + 8 * l1),
                "s_axis_tvalid": In(1),
                "s_axis_tready": Out(1),
                "s_axis_tlast": In(1),
                "m_axis_tdata": Out(wide + 8 * l1),
                "m_axis_tvalid": Out(1),
                "m_axis_tready": In(1),
                "m_axis_tlast": Out(1),
                "s_axis_cmd_tdata": In((2 + guess) * wide + 8),
                "s_axis_cmd_tvalid": In(1),
                "s_axis_cmd_tready": Out(1),
                "phase": Out(Phase),
                "snapshot": Out(context),
                "restore": In(context),
                "dgamma": Out(signed(config.quotient + 1)),
                "dbeta": Out(signed(config.need.sum)),
                "framing_error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wire the lanes and check the framing."""
        m = Module()
        config, unit = self.config, self.unit
        m.submodules.unit = unit
        w, wide = config.width, lane(config.width)
        data, command = self.s_axis_tdata, self.s_axis_cmd_tdata
        m.d.comb += [
            unit.element.valid.eq(self.s_axis_tvalid),
            unit.element.payload.x.eq(data[:w]),
            unit.element.payload.g.eq(data[wide : wide + w]),
            self.s_axis_tready.eq(unit.element.ready),
            unit.command.valid.eq(self.s_axis_cmd_tvalid),
            unit.command.payload.gamma.eq(command[:w]),
            unit.command.payload.beta.eq(command[wide : wide + w]),
            unit.command.payload.operation.eq(command[-8:-6]),
            self.s_axis_cmd_tready.eq(unit.command.ready),
            self.m_axis_tvalid.eq(unit.result.valid),
            self.m_axis_tlast.eq(unit.result.payload.last),
            unit.result.ready.eq(self.m_axis_tready),
            self.phase.eq(unit.phase),
            self.snapshot.eq(unit.snapshot),
            unit.restore.eq(self.restore),
            self.dgamma.eq(unit.dgamma),
            self.dbeta.eq(unit.dbeta),
        ]
        first = 2 * wide + 8 * (config.norm == "l1")
        for index, name in enumerate(self.lanes):
            low = first + index * wide
            m.d.comb += getattr(unit.element.payload, name).eq(data[low : low + w])
        if config.overlap:
            m.d.comb += unit.command.payload.fill.eq(command[-6])
        value = unit.result.payload.value
        lanes = [value, value[-1].replicate(wide - w)]
        if config.norm == "l1":
            m.d.comb += unit.element.payload.above.eq(data[2 * wide])
            lanes += [unit.result.payload.above, Const(0, 7)]
            if config.passes == 1:
                m.d.comb += unit.command.payload.guess.eq(command[2 * wide : 2 * wide + w])
        m.d.comb += self.m_axis_tdata.eq(Cat(*lanes))

        counter = Signal(config.log2_elements)
        error = Signal()
        m.d.comb += self.framing_error.eq(error)
        with m.If(self.s_axis_tvalid & self.s_axis_tready):
            m.d.sync += counter.eq(counter + 1)
            m.d.sync += error.eq(Mux(self.s_axis_tlast == counter.all(), error, 1))
        return m
