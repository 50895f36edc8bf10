"""What all monitors share: free inputs, a reset in the first clock, named claims."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Assume, Elaboratable, Module, ResetSignal, Signal

#: An Amaranth expression.
Value = Any


class Monitor(Elaboratable):
    """A device beside registers that follow it, and claims about both.

    Every register of the device starts with any value: what holds, holds after a reset in any state
    of the circuit. The first clock is that reset; claims are made from the next one on.
    """

    def __init__(self) -> None:
        self.free: list[Signal] = []
        self.begun = Signal(reset_less=True)
        self.claimed: list[str] = []

    def elaborate(self, platform: object) -> Module:
        """Hold the reset, then let ``build`` add the device and its claims."""
        m = Module()
        m.d.comb += Assume(ResetSignal() == ~self.begun)
        m.d.sync += self.begun.eq(1)
        self.build(m)
        return m

    def build(self, m: Module) -> None:
        """Add the device, what follows it, and the claims."""
        raise NotImplementedError

    def input(self, like: Value) -> Signal:
        """A signal that may take any value in every clock, shaped as ``like``."""
        signal = Signal(like.shape(), name=f"free{len(self.free)}")
        self.free.append(signal)
        return signal

    def release(self, m: Module, *ports: Value) -> None:
        """Let inputs of the device take any value in every clock."""
        for port in ports:
            m.d.comb += port.eq(self.input(port))

    def assume(self, m: Module, condition: Value) -> None:
        """What the surroundings promise."""
        m.d.comb += Assume(condition | ~self.begun)

    def claim(self, m: Module, name: str, condition: Value) -> None:
        """What must hold in every clock after the reset."""
        holds = Signal(name=f"holds_{name}")
        m.d.comb += [holds.eq(condition | ~self.begun), Assert(holds)]
        self.claimed.append(name)
