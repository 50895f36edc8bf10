"""Simulation of a unit in Amaranth, bit by bit against the integer model, with random stalls."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from amaranth.lib import data
from amaranth.sim import Simulator, SimulatorContext

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.ports import Operation, Phase
from l1bn.rtl.unit.top import NormUnit
from l1bn.rtl.verify.schedule import Element, Scheduler, Step
from l1bn.rtl.verify.stimulus import Channels, Expected, expected

Order = Literal["natural", "restored", "steady"]


class MismatchError(AssertionError):
    """The unit and the integer model differ."""


@dataclass
class Run:
    """Record of a simulation.

    Attributes:
        steps: Clocks of each command.
        clocks: Clocks of the commands that count, see ``l1bn.rtl.verify.schedule.Step``.
        second_passes: Channels whose one-pass statistics were repeated.
    """

    steps: list[int] = field(default_factory=list)
    clocks: int = 0
    second_passes: int = 0


def simulate(
    config: UnitConfig,
    channels: Channels | Sequence[Channels],
    *,
    stall: float = 0.0,
    seed: int = 0,
    order: Order = "natural",
    trace: Path | None = None,
) -> Run:
    """Run every channel forward and backward, and compare every output bit.

    Args:
        config: The unit.
        channels: What to feed, or several layers of it, one after the other without a reset.
        stall: Probability that the feeder holds an element back, and that the taker is not ready,
            in each clock.
        seed: Of the stalls, and of what is fed where nothing matters.
        order: "natural": each channel forward and backward in turn, or, where channels overlap, a
            layer forward and then backward. "restored": a layer forward and then backward, from
            restored contexts. "steady": the middle of a layer of many channels (overlap only).
        trace: Write a VCD here.

    Raises:
        MismatchError: At the first bit that differs from the integer model.
    """
    unit = NormUnit(config)
    judged: list[Expected] = []
    ordered: list[Step] = []
    for layer in [channels] if isinstance(channels, Channels) else channels:
        found = list(expected(config, layer))
        ordered += [step.moved(len(judged)) for step in steps(config, layer, found, order)]
        judged += found
    bench = _Bench(unit, ordered, judged, stall, seed)
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench.commands)
    simulator.add_testbench(bench.feed, background=True)
    simulator.add_testbench(bench.take, background=True)
    simulator.add_testbench(bench.watch, background=True)
    if trace is None:
        simulator.run()
    else:
        with simulator.write_vcd(str(trace)):
            simulator.run()
    return bench.run


def steps(
    config: UnitConfig, channels: Channels, judged: list[Expected], order: Order
) -> list[Step]:
    """The commands of an order, see ``simulate``."""
    scheduler = Scheduler(config, channels, judged)
    first = scheduler.count()
    if config.overlap:
        return first + scheduler.overlapped(steady=order == "steady")
    return first + (scheduler.restored() if order == "restored" else scheduler.one_by_one())


class _Bench:
    """Feeder, taker and judge around one unit."""

    def __init__(
        self, unit: NormUnit, steps: list[Step], judged: list[Expected], stall: float, seed: int
    ) -> None:
        self.unit, self.steps, self.judged, self.stall = unit, steps, judged, stall
        self.rng = random.Random(seed)
        self.run = Run()
        self.step = steps[0]
        self.elements: list[tuple[Phase, Element]] = []
        self.pending: list[Element] = []
        self.clock = 0

    def _stalled(self) -> bool:
        return self.stall > 0 and self.rng.random() < self.stall

    def _filled(self, layout: data.Layout, fields: Element) -> Element:
        """The fields, and anything in those that are not named: it must not matter."""
        return {
            name: fields[name] if name in fields else self.rng.getrandbits(layout[name].width)
            for name, _ in layout
        }

    async def watch(self, ctx: SimulatorContext) -> None:
        """Count clocks; refuse a unit that hangs."""
        while True:
            await ctx.tick()
            self.clock += 1
            if self.clock > 2_000_000:
                raise MismatchError("the unit hangs: 2,000,000 clocks passed")

    async def commands(self, ctx: SimulatorContext) -> None:
        """Issue the commands and compare the scalars that each leaves."""
        unit = self.unit
        layout = unit.command.payload.shape()
        contexts: dict[int, dict[str, int]] = {}
        for step in self.steps:
            start = self.clock
            self.step = step
            self.elements, self.pending = list(step.elements), list(step.results)
            if step.loads is not None:
                ctx.set(unit.restore, contexts[step.loads])
            fields = {**step.command, "operation": int(step.operation)}
            ctx.set(unit.command.payload, self._filled(layout, fields))
            ctx.set(unit.command.valid, 1)
            while not ctx.get(unit.command.ready):
                await ctx.tick()
            self._judge_scalars(ctx, step)
            if step.saves is not None:
                contexts[step.saves] = self._context(ctx, step.saves)
            await ctx.tick()
            ctx.set(unit.command.valid, 0)
            self._judge_counts(step)
            self.run.steps.append(self.clock - start)
            self.run.clocks += step.counted * self.run.steps[-1]

    def _judge_scalars(self, ctx: SimulatorContext, step: Step) -> None:
        if step.scalars is not None:
            self._same("dgamma", ctx.get(self.unit.dgamma), step.scalars[0])
            self._same("dbeta", ctx.get(self.unit.dbeta), step.scalars[1])

    def _judge_counts(self, step: Step) -> None:
        for what, left in (("went in", self.elements), ("came", self.pending)):
            if left:
                raise MismatchError(f"channel {step.channel}: {len(left)} elements never {what}")
        phases = [phase for phase, _ in step.elements]
        forward_only = step.operation is Operation.FORWARD and not self.unit.config.overlap
        if forward_only and self.unit.config.passes == 1 and Phase.DEVIATION in phases:
            self.run.second_passes += 1

    def _context(self, ctx: SimulatorContext, channel: int) -> dict[str, int]:
        want, got = self.judged[channel], ctx.get(self.unit.snapshot)
        for name in ("total", "spread", "live"):
            self._same(name, int(getattr(got, name)), int(getattr(want, name)))
        return {name: getattr(got, name) for name, _ in self.unit.snapshot.shape()}

    def _same(self, name: str, got: int, want: int) -> None:
        if got != want:
            raise MismatchError(f"channel {self.step.channel}, {name}: expected {want}, got {got}")

    async def feed(self, ctx: SimulatorContext) -> None:
        """Send the elements of the step; between them, garbage that must not matter."""
        unit = self.unit
        layout = unit.element.payload.shape()
        while True:
            if not self.elements or self._stalled():
                ctx.set(unit.element.valid, 0)
                ctx.set(unit.element.payload, self._filled(layout, {}))
                await ctx.tick()
                continue
            wanted, fields = self.elements[0]
            ctx.set(unit.element.payload, self._filled(layout, fields))
            ctx.set(unit.element.valid, 1)
            taken = False
            while not taken:
                _, _, taken, phase = await ctx.tick().sample(unit.element.ready, unit.phase)
            self._same("phase", int(phase), int(wanted))
            self.elements.pop(0)
            ctx.set(unit.element.valid, 0)

    async def take(self, ctx: SimulatorContext) -> None:
        """Take results, now and then not, and compare each."""
        unit = self.unit
        while True:
            ready = not self._stalled()
            ctx.set(unit.result.ready, int(ready))
            _, _, valid, payload = await ctx.tick().sample(unit.result.valid, unit.result.payload)
            if valid and ready:
                self._compare(payload)

    def _compare(self, payload: data.Const) -> None:
        index = len(self.step.results) - len(self.pending)
        if not self.pending:
            raise MismatchError(
                f"channel {self.step.channel}: more elements came than were expected"
            )
        want = self.pending.pop(0)
        forward = self.step.operation is Operation.FORWARD
        where = f"{'y' if forward else 'dx'}[{index}]"
        self._same(where, payload.value, want["value"])
        self._same(f"{where} last", payload.last, want["last"])
        if "above" in want:
            self._same(f"{where} above", payload.above, want["above"])
