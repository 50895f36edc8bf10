"""The scalar multiplier: what a channel needs once, at two bits per clock."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from l1bn.rtl.config import UnitConfig


class ScalarMultiplier(wiring.Component):
    """accumulator = addend ± a · b, radix-4 Booth, two bits of b per clock.

    Ports:
        start: Load the operands; taken while ``done`` or idle.
        keep: With ``start``: go on from the accumulator instead of ``addend``.
        a: Multiplicand.
        b: Multiplier, of which the low ``2 · digits`` bits hold the value.
        digits: Clocks to spend.
        subtract: Subtract the product.
        addend: First value of the accumulator.
        result: The accumulator.
        done: High when ``result`` is complete, until the next start.
    """

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
        wide, narrow = config.scalar, config.multiplier_bits
        super().__init__(
            {
                "start": In(1),
                "keep": In(1),
                "a": In(signed(wide)),
                "b": In(signed(narrow)),
                "digits": In((narrow // 2 + 1).bit_length()),
                "subtract": In(1),
                "addend": In(signed(wide)),
                "result": Out(signed(wide)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the recoder, the adder and the shift registers."""
        m = Module()
        result = Signal.like(self.result, reset_less=True)
        multiplicand = Signal.like(self.a, reset_less=True)
        # One bit below the multiplier: the carry of the Booth recoding.
        multiplier = Signal(signed(len(self.b) + 1), reset_less=True)
        negate = Signal(reset_less=True)
        left = Signal.like(self.digits)
        m.d.comb += [self.result.eq(result), self.done.eq(left == 0)]

        low, mid, high = multiplier[0], multiplier[1], multiplier[2]
        one, two = low ^ mid, (high != mid) & (low == mid)
        magnitude = Signal.like(multiplicand)
        m.d.comb += magnitude.eq(Mux(two, multiplicand << 1, Mux(one, multiplicand, 0)))
        minus = high ^ negate
        with m.If(self.start):
            m.d.sync += [
                multiplicand.eq(self.a),
                multiplier.eq(Cat(0, self.b)),
                negate.eq(self.subtract),
                left.eq(self.digits),
            ]
            with m.If(~self.keep):
                m.d.sync += result.eq(self.addend)
        with m.Elif(left != 0):
            m.d.sync += [
                result.eq(result + (magnitude ^ minus.replicate(len(magnitude))) + minus),
                multiplicand.eq(multiplicand << 2),
                multiplier.eq(multiplier >> 2),
                left.eq(left - 1),
            ]
        return m
