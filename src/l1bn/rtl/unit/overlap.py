"""Channels overlapped: what needs no multiplier, or the other one, runs beside what needs it.

All lanes move in lock step under one valid and one ready. In step t of a layer's forward pass:

    ==========================  ================  ======================  ======================
    unit                        normalize         deviation               sums
    ==========================  ================  ======================  ======================
    L1, two passes              t - 2             t - 1, beside           t, beside
    L2, one multiplier          t - 1, after      t - 1, in its own pass  t, beside the deviation
    L2, two multipliers         t - 1             t, beside, one pass with its sum
    L2, one and a squarer       t - 1             t, beside, one pass with its sum
    ==========================  ================  ======================  ======================

The scalars of a channel are computed when its deviation is complete, so γ and β of a command belong
to that channel, and so does ``snapshot``. A channel whose predecessors are missing (the first steps
of a layer) is marked with ``fill``: its step emits nothing.

Backward, L1 on two multipliers reduces channel t beside the gradient of channel t - 1, and loads
the context of t in between. In all other units the reduction needs the one multiplier, or the
gradient needs both.
"""

from __future__ import annotations

from amaranth.hdl import Module

from l1bn.rtl.unit import passes
from l1bn.rtl.unit.passes import Ports
from l1bn.rtl.unit.ports import Phase
from l1bn.rtl.unit.scalars import count
from l1bn.rtl.unit.scalars.program import Parts


def begin_forward(m: Module, parts: Parts) -> str:
    """Hand the channels on by one lane; return the first state of the step."""
    config, statistic, r = parts.config, parts.statistic, parts.registers
    if config.holds_total:
        m.d.sync += r.total.eq(statistic.total)
    if config.side and config.norm == "l2":
        m.d.comb += parts.path.clear_side.eq(1)
    if config.norm == "l1":
        m.d.sync += r.level.eq(r.threshold)
    if config.counted and config.holds_total:
        return "MEAN"
    if config.norm == "l1":
        m.d.sync += r.threshold.eq(parts.ceiling)
    return "BEGIN_NORMALIZE" if config.norm == "l1" or config.side else "DEVIATION"


def forward_passes(m: Module, unit: Ports, parts: Parts) -> str:
    """States of the passes; returns the state after the scalars."""
    config = parts.config
    if config.counted and config.holds_total:
        l1 = config.norm == "l1"
        takes = [parts.registers.threshold.eq(parts.ceiling)] if l1 else []
        goes_to = "BEGIN_NORMALIZE" if l1 else "DEVIATION"
        count.divide_total(m, parts, "MEAN", goes_to, then=takes)
    if config.norm == "l2" and not config.side:
        _square_beside_sums(m, unit, parts)
        passes.normalize_pass(m, unit, parts)
        return "BEGIN_NORMALIZE"
    _normalize_beside_statistics(m, unit, parts)
    return "FINISH"


def _normalize_beside_statistics(m: Module, unit: Ports, parts: Parts) -> None:
    statistic, path = parts.statistic, parts.path
    l1 = parts.config.norm == "l1"
    passes.load_coefficient(m, parts, "BEGIN_NORMALIZE", "NORMALIZE")
    with m.State("NORMALIZE"):
        m.d.comb += [
            unit.phase.eq(Phase.NORMALIZE),
            unit.element.ready.eq(path.go),
            path.enter.eq(unit.taken),
            path.emit.eq(~unit.command.payload.fill),
            statistic.add_total.eq(unit.taken),
        ]
        if l1:
            m.d.comb += [
                statistic.add_high.eq(unit.taken),
                path.select.eq(unit.element.payload.x >= parts.registers.level),
            ]
        else:
            m.d.comb += [unit.squares.eq(1), path.aside.eq(1)]
            if not parts.config.squarer:
                m.d.comb += path.load_b2.eq(unit.taken)
        with m.If(unit.final):
            m.next = "SPREAD" if l1 else "DRAIN_SQUARES"
    if not l1:
        with m.State("DRAIN_SQUARES"), m.If(path.empty):
            m.next = "SPREAD"


def _square_beside_sums(m: Module, unit: Ports, parts: Parts) -> None:
    statistic, path = parts.statistic, parts.path
    with m.State("DEVIATION"):
        m.d.comb += [
            unit.phase.eq(Phase.DEVIATION),
            unit.element.ready.eq(path.go),
            statistic.add_total.eq(unit.taken),
        ]
        passes.square(m, unit, parts)
        with m.If(unit.final):
            m.next = "DRAIN_SQUARES"
    with m.State("DRAIN_SQUARES"), m.If(path.empty):
        with m.If(unit.command.payload.fill):
            m.next = "FINISH"
        with m.Else():
            m.next = "SPREAD"


def gradient_pass(m: Module, unit: Ports, parts: Parts) -> None:
    """Gradient of a channel beside the reduction of the next, whose context comes after it."""
    statistic, path = parts.statistic, parts.path
    passes.load_coefficient(m, parts, "BEGIN_GRADIENT", "GRADIENT")
    with m.State("GRADIENT"):
        m.d.comb += [
            unit.phase.eq(Phase.GRADIENT),
            unit.element.ready.eq(path.go),
            path.enter.eq(unit.taken),
            path.emit.eq(~unit.command.payload.fill),
            path.select.eq(unit.element.payload.above),
            path.aside.eq(1),
            path.load_b2.eq(unit.taken),
            statistic.add_gradient.eq(unit.taken),
        ]
        with m.If(unit.final):
            m.next = "DRAIN_REDUCE"
    with m.State("DRAIN_REDUCE"), m.If(path.empty):
        m.next = "LOAD"
    with m.State("LOAD"):
        passes.load_context(m, unit, parts)
        m.next = "COVARIANCE"
