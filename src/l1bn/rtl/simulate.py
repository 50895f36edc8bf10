"""Simulation of a unit in Amaranth, bit by bit against the integer model, with random stalls."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amaranth.sim import Simulator

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.stimulus import Channels, Expected, expected
from l1bn.rtl.top import NormUnit, Operation, Phase


class MismatchError(AssertionError):
    """The unit and the integer model differ."""


@dataclass
class Run:
    """Record of a simulation.

    Attributes:
        clocks: Clocks of each channel, forward and backward.
        second_passes: Channels whose one-pass statistics were repeated.
    """

    clocks: list[int] = field(default_factory=list)
    second_passes: int = 0


def simulate(
    config: UnitConfig,
    channels: Channels,
    *,
    stall: float = 0.0,
    seed: int = 0,
    restore: bool = False,
    trace: Path | None = None,
) -> Run:
    """Run every channel forward and backward, and compare every output bit.

    Args:
        config: The unit.
        channels: What to feed.
        stall: Probability that the feeder holds an element back, and that the taker is not ready,
            in each clock.
        seed: Of the stalls.
        restore: Run all forward passes first, then all backward passes with restored contexts.
        trace: Write a VCD here.

    Raises:
        MismatchError: At the first bit that differs from the integer model.
    """
    unit = NormUnit(config)
    bench = _Bench(unit, channels, stall, random.Random(seed), restore)
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


class _Bench:
    """Feeder, taker and judge around one unit."""

    def __init__(
        self, unit: NormUnit, channels: Channels, stall: float, rng: random.Random, restore: bool
    ) -> None:
        self.unit, self.channels, self.stall, self.rng = unit, channels, stall, rng
        self.restore = restore
        self.expected: list[Expected] = list(expected(unit.config, channels))
        self.run = Run()
        self.channel = 0
        self.backward = False
        self.repeat = False
        self.pending: list[tuple[int, int]] = []
        self.position = 0
        self.clock = 0

    def _stalled(self) -> bool:
        return self.stall > 0 and self.rng.random() < self.stall

    async def watch(self, ctx: Any) -> None:
        """Count clocks; refuse a unit that hangs."""
        while True:
            await ctx.tick()
            self.clock += 1
            if self.clock > 2_000_000:
                raise MismatchError("the unit hangs: 2,000,000 clocks passed")

    async def commands(self, ctx: Any) -> None:
        """Issue the commands and compare the scalars that each leaves."""
        count = len(self.channels)
        if not self.restore:
            for i in range(count):
                start = self.clock
                await self._forward(ctx, i)
                await self._backward(ctx, i)
                self.run.clocks.append(self.clock - start)
            return
        contexts = [await self._forward(ctx, i) for i in range(count)]
        for i in reversed(range(count)):
            ctx.set(self.unit.restore, contexts[i])
            await self._command(ctx, Operation.RESTORE, i)
            await self._retire(ctx)
            await self._backward(ctx, i)

    async def _command(self, ctx: Any, operation: Operation, index: int) -> None:
        unit, channels = self.unit, self.channels
        payload = {
            "operation": operation,
            "gamma": int(channels.gamma[index]),
            "beta": int(channels.beta[index]),
        }
        if unit.config.norm == "l1" and unit.config.passes == 1:
            payload["guess"] = int(channels.guess[index])
        self.channel, self.backward = index, operation is Operation.BACKWARD
        self.position, self.repeat = 0, False
        want = self.expected[index]
        if operation is Operation.FORWARD:
            self.pending = list(zip(want.y, want.bits, strict=True))
        elif operation is Operation.BACKWARD:
            self.pending = [(v, -1) for v in want.dx]
        else:
            self.pending = []
        ctx.set(unit.command.payload, payload)
        ctx.set(unit.command.valid, 1)
        while not ctx.get(unit.command.ready):
            await ctx.tick()

    async def _retire(self, ctx: Any) -> None:
        await ctx.tick()
        ctx.set(self.unit.command.valid, 0)
        if self.pending:
            raise MismatchError(f"channel {self.channel}: {len(self.pending)} elements never came")

    async def _forward(self, ctx: Any, index: int) -> Any:
        await self._command(ctx, Operation.FORWARD, index)
        want, got = self.expected[index], ctx.get(self.unit.snapshot)
        for name in ("total", "spread", "live"):
            self._same(name, int(getattr(got, name)), int(getattr(want, name)))
        values = {name: getattr(got, name) for name, _ in self.unit.snapshot.shape()}
        await self._retire(ctx)
        self._same("second_pass", int(self.repeat), int(want.second_pass))
        self.run.second_passes += self.repeat
        return values

    async def _backward(self, ctx: Any, index: int) -> None:
        await self._command(ctx, Operation.BACKWARD, index)
        want = self.expected[index]
        self._same("dgamma", ctx.get(self.unit.dgamma), want.dgamma)
        self._same("dbeta", ctx.get(self.unit.dbeta), want.dbeta)
        await self._retire(ctx)

    def _same(self, name: str, got: int, want: int) -> None:
        if got != want:
            raise MismatchError(f"channel {self.channel}, {name}: expected {want}, got {got}")

    async def feed(self, ctx: Any) -> None:
        """Send what the phase asks for; between elements, garbage that must not matter."""
        unit, channels, n = self.unit, self.channels, self.unit.config.elements
        one_pass = unit.config.norm == "l1" and unit.config.passes == 1
        low, high = unit.config.spec.data.low, unit.config.spec.data.high
        while True:
            phase = Phase(ctx.get(unit.phase))
            if phase is Phase.SCALARS or self._stalled():
                ctx.set(unit.element.valid, 0)
                if self.stall:
                    ctx.set(unit.element.payload.x, self.rng.randint(low, high))
                    ctx.set(unit.element.payload.g, self.rng.randint(low, high))
                await ctx.tick()
                continue
            index = self.position % n
            x, g = int(channels.x[self.channel, index]), int(channels.g[self.channel, index])
            self.repeat |= one_pass and phase is Phase.DEVIATION
            payload = {"x": x, "g": g}
            if unit.config.norm == "l1":
                payload["above"] = self.expected[self.channel].bits[index]
                if phase is Phase.GRADIENT:
                    payload["x"] = 0  # L1's dx needs the bit alone
            ctx.set(unit.element.payload, payload)
            ctx.set(unit.element.valid, 1)
            taken = False
            while not taken:
                _, _, taken = await ctx.tick().sample(unit.element.ready)
            self.position += 1
            ctx.set(unit.element.valid, 0)

    async def take(self, ctx: Any) -> None:
        """Take results, now and then not, and compare each."""
        unit = self.unit
        while True:
            ready = not self._stalled()
            ctx.set(unit.result.ready, int(ready))
            _, _, valid, payload = await ctx.tick().sample(unit.result.valid, unit.result.payload)
            if valid and ready:
                self._compare(payload)

    def _compare(self, payload: Any) -> None:
        index = self.unit.config.elements - len(self.pending)
        if not self.pending:
            raise MismatchError(f"channel {self.channel}: more elements came than went in")
        value, bit = self.pending.pop(0)
        where = f"{'dx' if self.backward else 'y'}[{index}]"
        self._same(where, payload.value, value)
        self._same(f"{where} last", payload.last, int(not self.pending))
        if bit >= 0 and self.unit.config.norm == "l1":
            self._same(f"{where} above", payload.above, bit)
