"""AXI4-Stream wrapper: byte-aligned lanes, TLAST on the last element of a pass."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.ports import (
    Phase,
    axi_command_layout,
    axi_element_layout,
    axi_lane,
    axi_result_layout,
    context_layout,
)
from l1bn.rtl.unit.top import NormUnit


class SkidBuffer(wiring.Component):
    """Two words deep: a stream in, a stream out, no combinational path from ready to ready.

    Ports:
        word_in, valid_in, ready_in: From the source; ``ready_in`` is a register.
        word_out, valid_out, ready_out: To the taker.
    """

    def __init__(self, bits: int) -> None:
        super().__init__(
            {
                "word_in": In(bits),
                "valid_in": In(1),
                "ready_in": Out(1),
                "word_out": Out(bits),
                "valid_out": Out(1),
                "ready_out": In(1),
            }
        )
        self.caught = Signal(bits, reset_less=True)
        self.waits = Signal()

    def elaborate(self, platform: object) -> Module:
        """An output register, and one that catches the word which a late stall finds on its way."""
        m = Module()
        word = Signal.like(self.word_out, reset_less=True)
        caught, waits = self.caught, self.waits
        valid = Signal()
        moves = Signal()
        m.d.comb += [
            self.word_out.eq(word), self.valid_out.eq(valid), self.ready_in.eq(~waits),
            moves.eq(self.ready_out | ~valid),
        ]  # fmt: skip
        with m.If(moves):
            m.d.sync += [
                word.eq(Mux(waits, caught, self.word_in)),
                valid.eq(waits | self.valid_in),
                waits.eq(0),
            ]
        with m.Elif(self.valid_in & ~waits):
            m.d.sync += [caught.eq(self.word_in), waits.eq(1)]
        return m


def stream_ports(config: UnitConfig) -> dict[str, wiring.Member]:
    """The ports of elements and results."""
    return {
        "s_axis_tdata": In(axi_element_layout(config).size),
        "s_axis_tvalid": In(1),
        "s_axis_tready": Out(1),
        "s_axis_tlast": In(1),
        "m_axis_tdata": Out(axi_result_layout(config).size),
        "m_axis_tvalid": Out(1),
        "m_axis_tready": In(1),
        "m_axis_tlast": Out(1),
    }


class AxiNormUnit(wiring.Component):
    """A ``NormUnit`` behind AXI4-Stream channels.

    Lanes, from bit 0 up, each sign-extended to whole bytes; ``l1bn.rtl.unit.ports`` fixes them:

    ========== ==============================================================================
    s_axis     x, g, for L1 one byte with the stored bit; where channels overlap, then x_next,
               x_ahead, g_next, those that the unit has. TLAST marks the N-th element
    m_axis     y or dx, and for L1 one byte with the bit x ≥ μ. TLAST marks the N-th element
    s_axis_cmd γ, β, for one-pass L1 the guess, and one byte: 0 forward, 1 backward, 2 restore;
               where channels overlap, 4 more for a step that fills the pipeline. Where a
               command sets N, it lies before that byte, in whole bytes, and 3 is its code
    ========== ==============================================================================

    Results leave through a ``SkidBuffer``: no ready is a function of another ready.

    Ports:
        aclk, aresetn: Clock, and reset at 0, sampled by the clock.
        s_axis_*, m_axis_*, s_axis_cmd_*: The streams.
        phase: ``Phase``: what the unit expects on s_axis.
        snapshot, restore, dgamma, dbeta, command_error: As ``NormUnit``.
        framing_error: An s_axis TLAST came early or was missing; cleared by reset.
    """

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
        self.unit = NormUnit(config)
        context = context_layout(config)
        super().__init__(
            {
                "aclk": In(1),
                "aresetn": In(1),
                **stream_ports(config),
                "s_axis_cmd_tdata": In(axi_command_layout(config).size),
                "s_axis_cmd_tvalid": In(1),
                "s_axis_cmd_tready": Out(1),
                "phase": Out(Phase),
                "snapshot": Out(context),
                "restore": In(context),
                "dgamma": Out(signed(config.quotient + 1)),
                "dbeta": Out(signed(config.need.sum)),
                "command_error": Out(1),
                "framing_error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wire the lanes and check the framing."""
        m = Module()
        m.domains.sync = domain = ClockDomain(local=True)
        unit = self.unit
        m.submodules.unit = unit
        m.d.comb += [
            domain.clk.eq(self.aclk),
            domain.rst.eq(~self.aresetn),
            unit.element.valid.eq(self.s_axis_tvalid),
            self.s_axis_tready.eq(unit.element.ready),
            unit.command.valid.eq(self.s_axis_cmd_tvalid),
            self.s_axis_cmd_tready.eq(unit.command.ready),
            self.phase.eq(unit.phase),
            self.snapshot.eq(unit.snapshot),
            unit.restore.eq(self.restore),
            self.dgamma.eq(unit.dgamma),
            self.dbeta.eq(unit.dbeta),
            self.command_error.eq(unit.command_error),
        ]
        for word, layout, payload in (
            (self.s_axis_tdata, axi_element_layout(self.config), unit.element.payload),
            (self.s_axis_cmd_tdata, axi_command_layout(self.config), unit.command.payload),
        ):
            lanes = data.View(layout, word)
            m.d.comb += [getattr(payload, name).eq(getattr(lanes, name)) for name, _ in layout]
        self._results(m)
        self._framing(m)
        return m

    def _results(self, m: Module) -> None:
        layout, payload = axi_result_layout(self.config), self.unit.result.payload
        m.submodules.results = results = SkidBuffer(layout.size + 1)
        for name, _ in layout:
            field, value = layout[name], Value.cast(getattr(payload, name))
            lane = Signal(axi_lane(field.width), name=f"{name}_lane")
            m.d.comb += [
                lane.eq(value),  # sign-extended where it is signed
                results.word_in[field.offset : field.offset + len(lane)].eq(lane),
            ]
        m.d.comb += [
            results.word_in[-1].eq(payload.last),
            results.valid_in.eq(self.unit.result.valid),
            self.unit.result.ready.eq(results.ready_in),
            self.m_axis_tdata.eq(results.word_out),
            self.m_axis_tlast.eq(results.word_out[-1]),
            self.m_axis_tvalid.eq(results.valid_out),
            results.ready_out.eq(self.m_axis_tready),
        ]

    def _framing(self, m: Module) -> None:
        error = Signal()
        m.d.comb += self.framing_error.eq(error)
        if self.config.counted:
            last: Value = self.unit.at_last
        else:
            counter = Signal(self.config.log2_elements)
            last = counter.all()
        with m.If(self.s_axis_tvalid & self.s_axis_tready):
            if not self.config.counted:
                m.d.sync += counter.eq(counter + 1)
            with m.If(self.s_axis_tlast != last):
                m.d.sync += error.eq(1)
