"""How a scalar step is written: the state machine's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from amaranth.hdl import Module, Signal, Value, signed

from l1bn.fixed_point.norm.spec import INVERSE_K
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.blocks.element import ElementPath
from l1bn.rtl.unit.blocks.reciprocal import Divider, PowerOfTwo, Root
from l1bn.rtl.unit.blocks.scalar import ScalarMultiplier
from l1bn.rtl.unit.blocks.statistic import Statistic


def digits(bits: int) -> int:
    """Clocks the scalar multiplier needs for a signed operand of so many bits."""
    return (bits + 1) // 2


class Registers:
    """Per-channel registers of a unit; the context of a channel is the first block.

    Attributes:
        count: N, where a command sets it.
        area: √(2/π)·N² with sixteen fraction bits; for L2, the square of the root's floor.
        by_count: The divider divides by N.
        projection: q, while the divider divides by N.
    """

    def __init__(self, config: UnitConfig) -> None:
        wide = config.need.element
        self.coefficient = Signal(signed(config.coefficient), reset_less=True)
        self.shift = Signal(config.shift_bits, reset_less=True)
        self.live = Signal(reset_less=True)
        self.spread = Signal(config.divisor, reset_less=True)
        self.threshold = Signal(signed(config.width), reset_less=True)
        self.offset_low = Signal(signed(wide), reset_less=True)
        self.offset_high = Signal(signed(wide), reset_less=True)
        self.slope = Signal(signed(config.coefficient), reset_less=True)
        self.dgamma = Signal(signed(config.quotient + 1), reset_less=True)
        self.negative = Signal(reset_less=True)
        self.repeated = Signal()
        self.total = Signal(signed(config.need.sum), reset_less=True)
        self.level = Signal(signed(config.width), reset_less=True)
        self.far = Signal(reset_less=True)
        self.distance = Signal(config.width + 1, reset_less=True)
        # What all channels share where a command sets N; after a reset, N is the largest.
        n = config.elements
        area = INVERSE_K * n * n if config.norm == "l1" else config.spec.root_floor(n) ** 2
        self.count = Signal(config.log2_elements + 1, init=n)
        self.area = Signal(area.bit_length(), init=area)
        self.by_count = Signal()
        self.projection = Signal(signed(config.quotient + 1), reset_less=True)


@dataclass
class Parts:
    """The blocks of a unit, wired by its state machine.

    Attributes:
        begun: One flag for all states: the block that this state runs has been started.
        guess: Threshold of the previous batch, for one-pass L1 statistics.
        ceiling: Smallest integer at or above the mean, from the sum.
        total: Σx of the channel whose scalars are computed.
        squares: Σx², or Σ(x − ⌊μ⌋)², of that channel (L2).
        products: Σg·x of that channel.
    """

    config: UnitConfig
    statistic: Statistic
    path: ElementPath
    scalar: ScalarMultiplier
    registers: Registers
    divider: Divider | None = None
    root: Root | None = None
    power: PowerOfTwo | None = None
    begun: Signal = field(default_factory=lambda: Signal(name="begun"))
    guess: Value = None
    ceiling: Value = None
    total: Value = None
    squares: Value = None
    products: Value = None


def multiply(
    m: Module,
    parts: Parts,
    state: str,
    goes_to: str,
    a: Value,
    b: Value,
    bits: int,
    *,
    addend: Value = 0,
    subtract: bool = False,
    keep: bool = False,
    then: Sequence[Value] = (),
) -> None:
    """A state that computes addend ± a·b, then runs ``then`` and goes on."""
    scalar = parts.scalar
    begun = parts.begun
    with m.State(state):
        with m.If(~begun):
            m.d.comb += [
                scalar.start.eq(1),
                scalar.keep.eq(int(keep)),
                scalar.a.eq(a),
                scalar.b.eq(b),
                scalar.digits.eq(digits(bits)),
                scalar.subtract.eq(int(subtract)),
                scalar.addend.eq(addend),
            ]
            m.d.sync += begun.eq(1)
        with m.Elif(scalar.done):
            m.d.sync += [*then, begun.eq(0)]
            m.next = goes_to


def begin_division(divider: Divider, dividend: Value, bits: int) -> list[Value]:
    """What starts a quotient of so many bits: they leave the top of the divider's low half."""
    return [
        divider.start.eq(1), divider.high.eq(dividend[bits:]),
        divider.low.eq(dividend[:bits].shift_left(len(divider.low) - bits)),
        divider.count.eq(bits),
    ]  # fmt: skip


def run(
    m: Module,
    parts: Parts,
    state: str,
    goes_to: str,
    start: Sequence[Value],
    done: Value,
    *,
    latch: Sequence[Value] = (),
    then: Sequence[Value] = (),
) -> None:
    """A state that starts a block, waits for it, then runs ``then`` and goes on.

    ``start`` holds while the block starts, ``latch`` is registered then.
    """
    begun = parts.begun
    with m.State(state):
        with m.If(~begun):
            m.d.comb += list(start)
            m.d.sync += [begun.eq(1), *latch]
        with m.Elif(done):
            m.d.sync += [*then, begun.eq(0)]
            m.next = goes_to
