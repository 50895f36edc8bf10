"""Passes of one channel at a time, as states of the unit, and the pieces that all passes share."""

from __future__ import annotations

from typing import Protocol

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream

from l1bn.rtl.unit.ports import Phase
from l1bn.rtl.unit.scalars import count
from l1bn.rtl.unit.scalars.program import Parts


class Ports(Protocol):
    """What passes see of the unit, beside its parts.

    Attributes:
        command: Stream of commands.
        element: Stream of elements.
        restore: Context to load.
        phase: Which pass the unit is in.
        taken: An element is taken.
        final: It is the last of the channel.
        squares: The multiplier squares x (less the mean).
        half: L2 on one multiplier: the second half of a gradient.
        reducing: The multiplier multiplies g by x.
    """

    command: stream.Interface
    element: stream.Interface
    restore: data.View
    phase: Signal
    taken: Signal
    final: Signal
    squares: Signal
    half: Signal
    reducing: Signal


def forward_passes(m: Module, unit: Ports, parts: Parts) -> str:
    """Statistics, then normalize; returns the state after the scalars."""
    if parts.config.norm == "l1":
        _l1_statistics(m, unit, parts)
    else:
        _l2_statistics(m, unit, parts)
    normalize_pass(m, unit, parts)
    return "BEGIN_NORMALIZE"


def _l1_statistics(m: Module, unit: Ports, parts: Parts) -> None:
    config, statistic, r = parts.config, parts.statistic, parts.registers
    one_pass = config.passes == 1
    with m.State("STATISTICS"):
        m.d.comb += [unit.phase.eq(Phase.STATISTICS), unit.element.ready.eq(1)]
        m.d.comb += statistic.add_total.eq(unit.taken)
        if one_pass:
            m.d.comb += statistic.add_high.eq(unit.taken)
        with m.If(unit.final):
            m.next = "SPREAD" if one_pass and not config.counted else "THRESHOLD"
    if config.counted:
        takes = [] if one_pass else [r.threshold.eq(parts.ceiling)]
        goes_to = "SPREAD" if one_pass else "DEVIATION"
        count.divide_total(m, parts, "THRESHOLD", goes_to, then=takes)
    elif not one_pass:
        with m.State("THRESHOLD"):
            m.d.sync += r.threshold.eq(parts.ceiling)
            m.next = "DEVIATION"
    with m.State("DEVIATION"):
        m.d.comb += [unit.phase.eq(Phase.DEVIATION), unit.element.ready.eq(1)]
        m.d.comb += statistic.add_high.eq(unit.taken)
        with m.If(unit.final):
            m.next = "SPREAD"


def _l2_statistics(m: Module, unit: Ports, parts: Parts) -> None:
    """Σx, then Σ(x − ⌊μ⌋)²; or both sums, the second of x², in one pass."""
    config, statistic, path = parts.config, parts.statistic, parts.path
    with m.State("STATISTICS"):
        m.d.comb += [unit.phase.eq(Phase.STATISTICS), unit.element.ready.eq(path.go)]
        m.d.comb += statistic.add_total.eq(unit.taken)
        if config.passes == 1:
            square(m, unit, parts)
        with m.If(unit.final):
            m.next = "DRAIN_SQUARES" if config.passes == 1 else "DEVIATION"
            if config.counted and config.passes == 2:
                m.next = "MEAN"
    if config.counted and config.passes == 2:
        count.divide_total(m, parts, "MEAN", "DEVIATION")
    if config.passes == 2:
        with m.State("DEVIATION"):
            m.d.comb += [unit.phase.eq(Phase.DEVIATION), unit.element.ready.eq(path.go)]
            square(m, unit, parts)
            with m.If(unit.final):
                m.next = "DRAIN_SQUARES"
    with m.State("DRAIN_SQUARES"), m.If(path.empty):
        m.next = "SPREAD"


def normalize_pass(m: Module, unit: Ports, parts: Parts) -> None:
    """States of the pass that emits y."""
    config, statistic, path = parts.config, parts.statistic, parts.path
    recount = config.norm == "l1" and config.passes == 1
    load_coefficient(m, parts, "BEGIN_NORMALIZE", "NORMALIZE")
    with m.State("NORMALIZE"):
        m.d.comb += [
            unit.phase.eq(Phase.NORMALIZE),
            unit.element.ready.eq(path.go),
            path.enter.eq(unit.taken),
            path.emit.eq(1),
        ]
        if config.norm == "l1":
            m.d.comb += path.select.eq(statistic.is_above)
        if recount:
            m.d.comb += statistic.count_high.eq(unit.taken)
        with m.If(unit.final):
            m.next = "FINISH"


def reduce_pass(m: Module, unit: Ports, parts: Parts) -> None:
    """States of the pass that sums g and g·x."""
    statistic, path = parts.statistic, parts.path
    with m.State("REDUCE"):
        m.d.comb += [
            unit.phase.eq(Phase.REDUCE),
            unit.element.ready.eq(path.go),
            statistic.add_gradient.eq(unit.taken),
            path.enter.eq(unit.taken),
            path.load_b.eq(unit.taken),
            unit.reducing.eq(1),
            path.use_sum.eq(1),
        ]
        with m.If(unit.final):
            m.next = "DRAIN_REDUCE"
    with m.State("DRAIN_REDUCE"), m.If(path.empty):
        m.next = "COVARIANCE"


def gradient_pass(m: Module, unit: Ports, parts: Parts) -> None:
    """States of the pass that emits dx."""
    config, path = parts.config, parts.path
    if config.norm == "l2" and config.multipliers == 1:
        _gradient_in_two(m, unit, parts)
        return
    payload = unit.element.payload
    load_coefficient(m, parts, "BEGIN_GRADIENT", "GRADIENT")
    with m.State("GRADIENT"):
        m.d.comb += [
            unit.phase.eq(Phase.GRADIENT),
            unit.element.ready.eq(path.go),
            path.enter.eq(unit.taken),
            path.emit.eq(1),
        ]
        if config.norm == "l1":
            m.d.comb += path.select.eq(payload.above)
        else:
            m.d.comb += path.second.eq(1)
        with m.If(unit.final):
            m.next = "FINISH"


def _gradient_in_two(m: Module, unit: Ports, parts: Parts) -> None:
    """L2 on one multiplier: g · coefficient, then x · slope, two clocks per element."""
    path, half = parts.path, unit.half
    enter = Signal()
    with m.State("BEGIN_GRADIENT"):
        m.next = "GRADIENT"
    with m.State("GRADIENT"):
        m.d.comb += [
            unit.phase.eq(Phase.GRADIENT),
            unit.element.ready.eq(path.go & half),
            enter.eq(unit.element.valid & path.go),
            path.enter.eq(enter),
            path.load_b.eq(enter),
            path.use_sum.eq(half),
            path.emit.eq(half),
        ]
        with m.If(enter):
            m.d.sync += half.eq(~half)
        with m.If(unit.final):
            m.next = "FINISH"


def square(m: Module, unit: Ports, parts: Parts) -> None:
    """Signals of a pass that squares x, or x less the mean."""
    path = parts.path
    m.d.comb += [
        unit.squares.eq(1),
        path.enter.eq(unit.taken),
        path.load_b.eq(unit.taken),
        path.use_sum.eq(1),
    ]


def load_coefficient(m: Module, parts: Parts, state: str, goes_to: str) -> None:
    """A state that puts the coefficient at the multiplier, one clock before a pass."""
    with m.State(state):
        m.d.comb += parts.path.load_b.eq(1)
        if parts.config.side and parts.config.norm == "l2" and not parts.config.squarer:
            m.d.comb += parts.path.load_b2.eq(1)
        if parts.config.norm == "l1" and parts.config.passes == 1 and goes_to == "NORMALIZE":
            # The bit of the backward pass is about the mean, not about the guess.
            m.d.comb += parts.statistic.clear_above.eq(1)
        m.next = goes_to


def load_context(m: Module, unit: Ports, parts: Parts) -> None:
    """Take the context of an earlier channel from ``restore``."""
    r = parts.registers
    m.d.comb += parts.statistic.load.eq(1)
    m.d.sync += [
        r.spread.eq(unit.restore.spread),
        r.live.eq(unit.restore.live),
        r.coefficient.eq(unit.restore.coefficient),
        r.shift.eq(unit.restore.shift),
    ]
    if parts.config.norm == "l1":
        m.d.sync += r.threshold.eq(unit.restore.threshold)
    if parts.config.holds_total:
        m.d.sync += r.total.eq(unit.restore.total)
