"""Division, the integer root and the power-of-two σ: one bit per clock, once per channel."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from l1bn.rtl.config import UnitConfig


class Divider(wiring.Component):
    """Restoring divider of unsigned numbers, one quotient bit per clock.

    Ports:
        start: Load; taken while ``done``.
        normalize: Run until the quotient has ``coefficient - 1`` significant bits (for 1/σ),
            instead of for ``count`` clocks.
        high: First remainder; below the divisor unless the quotient overflows.
        low: Bits that follow, most significant first.
        count: Quotient bits to produce.
        divisor: Held by the caller while the division runs. It enters shifted left by
            ``divisor_scale``, so that the dividend of 1/σ is an integer: so must every dividend.
        fraction: Bits that follow in a normalizing run, where N is no constant; before zeros.
        quotient: Result.
        remainder: What is left of the dividend, where N is no constant; below N.
        zeros: Leading zeros that a normalizing run skipped: the exponent.
        overflow: The first remainder was not below the divisor.
        done: High when idle.
    """

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
        wide = config.divisor + config.divisor_scale
        ports = {
            "start": In(1),
            "normalize": In(1),
            "high": In(wide),
            "low": In(config.longest_quotient),
            "count": In(config.longest_quotient.bit_length()),
            "divisor": In(config.divisor),
            "quotient": Out(config.longest_quotient),
            "zeros": Out(config.shift_bits),
            "overflow": Out(1),
            "done": Out(1),
        }
        if config.counted:
            ports["fraction"] = In(config.dividend_fraction)
            ports["remainder"] = Out(config.log2_elements)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        """Build the subtractor and its shift registers."""
        m = Module()
        wide = len(self.high)
        remainder = Signal(wide, reset_less=True)
        quotient = Signal.like(self.quotient, reset_less=True)
        zeros = Signal.like(self.zeros, reset_less=True)
        normalizing = Signal(reset_less=True)
        overflow = Signal(reset_less=True)
        running = Signal()
        left = Signal.like(self.count, reset_less=True)
        divisor = Signal(wide)
        m.d.comb += [
            divisor.eq(self.divisor << self.config.divisor_scale),
            self.quotient.eq(quotient),
            self.zeros.eq(zeros),
            self.overflow.eq(overflow),
            self.done.eq(~running),
        ]
        shifted = Signal(wide + 1)
        difference = Signal(wide + 2)
        bit = Signal()
        # While 1/σ is computed the quotient register holds no dividend bits: they are all zero, or,
        # where N is no constant, in a register of their own.
        following = quotient[-1] & ~normalizing
        if self.config.counted:
            fraction = self._fraction(m)
            following = Mux(normalizing, fraction[-1], quotient[-1])
            m.d.comb += self.remainder.eq(remainder)
        m.d.comb += [
            shifted.eq(Cat(following, remainder)),
            difference.eq(shifted - divisor),
            bit.eq(~difference[-1]),
        ]
        last = Signal()
        significant = self.config.coefficient - 1
        m.d.comb += last.eq(Mux(normalizing, quotient[significant - 2], left == 1))
        with m.If(self.start):
            m.d.sync += [
                remainder.eq(self.high),
                quotient.eq(self.low),
                left.eq(self.count),
                normalizing.eq(self.normalize),
                running.eq(1),
            ]
            with m.If(self.normalize):
                m.d.sync += zeros.eq(0)
            with m.Else():
                m.d.sync += overflow.eq(self.high >= divisor)
        with m.Elif(running):
            m.d.sync += [
                remainder.eq(Mux(bit, difference, shifted)),
                quotient.eq(Cat(bit, quotient)),
                left.eq(left - 1),
            ]
            with m.If(last):
                m.d.sync += running.eq(0)
            with m.If(normalizing & ~bit & (quotient == 0)):
                m.d.sync += zeros.eq(zeros + 1)
        return m

    def _fraction(self, m: Module) -> Signal:
        """The bits of a dividend behind the point, the next one on top."""
        fraction = Signal.like(self.fraction, reset_less=True)
        with m.If(self.start & self.normalize):
            m.d.sync += fraction.eq(self.fraction)
        with m.Elif(~self.done):
            m.d.sync += fraction.eq(fraction << 1)
        return fraction


class Root(wiring.Component):
    """Integer square root, one result bit per clock (L2 only).

    Ports:
        start: Load ``radicand``; taken while ``done``.
        radicand: Unsigned number.
        root: ⌊√radicand⌋.
        done: High when idle.
    """

    def __init__(self, config: UnitConfig) -> None:
        self.bits = config.divisor
        super().__init__(
            {
                "start": In(1),
                "radicand": In(2 * self.bits),
                "root": Out(self.bits),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the digit recurrence."""
        m = Module()
        bits = self.bits
        rest = Signal(2 * bits, reset_less=True)
        remainder = Signal(bits + 2, reset_less=True)
        root = Signal(bits, reset_less=True)
        left = Signal(bits.bit_length())
        m.d.comb += [self.root.eq(root), self.done.eq(left == 0)]
        shifted = Signal(bits + 2)
        difference = Signal(bits + 3)
        m.d.comb += [
            shifted.eq(Cat(rest[-2:], remainder)),
            difference.eq(shifted - Cat(1, 0, root)),
        ]
        bit = ~difference[-1]
        with m.If(self.start):
            m.d.sync += [
                rest.eq(self.radicand),
                remainder.eq(0),
                root.eq(0),
                left.eq(bits),
            ]
        with m.Elif(left != 0):
            m.d.sync += [
                remainder.eq(Mux(bit, difference, shifted)),
                root.eq(Cat(bit, root)),
                rest.eq(rest << 2),
                left.eq(left - 1),
            ]
        return m


class PowerOfTwo(wiring.Component):
    """Power-of-two σ: finds its exponent, and shifts by it, one bit per clock (L1 only).

    Ports:
        normalize: Load ``deviation`` and find the exponent; taken while ``done``.
        shift: Load ``value`` and shift it right by ``zeros``; taken while ``done``.
        deviation: Σ|N·x − S|.
        value: Σg·(N·x − S).
        amount: Right shift beyond the smallest one.
        zeros: Exponent of σ, counted from the smallest one.
        shifted: value >> (L + floor + amount), valid after ``shift``.
        done: High when idle.
    """

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
        self.wide = config.need.covariance
        super().__init__(
            {
                "normalize": In(1),
                "shift": In(1),
                "deviation": In(config.divisor),
                "value": In(signed(self.wide)),
                "amount": In(config.shift_bits),
                "zeros": Out(config.shift_bits),
                "shifted": Out(signed(self.wide)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the shift register."""
        m = Module()
        config = self.config
        value = Signal(signed(self.wide), reset_less=True)
        left = Signal(range(max(config.divisor, 1 << config.shift_bits) + 1))
        normalizing = Signal(reset_less=True)
        # The smallest shift: N · 2**floor_log2.
        least = config.log2_elements + config.spec.floor_log2
        top = config.divisor - 1
        # σ rounds up from 9/8 of a power of two: any of the three bits below the leading one.
        up = value[top - 3 : top].any()
        first = config.width - 1 - config.spec.floor_log2
        m.d.comb += [
            self.shifted.eq(value >> least if least >= 0 else value << -least),
            self.zeros.eq(left + up),
            self.done.eq(Mux(normalizing, value[top], left == 0)),
        ]
        with m.If(self.normalize):
            m.d.sync += [value.eq(self.deviation), left.eq(first), normalizing.eq(1)]
        with m.Elif(self.shift):
            m.d.sync += [value.eq(self.value), left.eq(self.amount), normalizing.eq(0)]
        with m.Elif(~self.done):
            m.d.sync += left.eq(left - 1)
            with m.If(normalizing):
                m.d.sync += value.eq(value << 1)
            with m.Else():
                m.d.sync += value.eq(value >> 1)
        return m
