"""Products with the element count, and divisions by it.

Where N is a constant power of two, both are shifts. Where a command sets it (``counted``), the
scalar multiplier and the divider do it, exactly: the divider is idle then, and needs no reciprocal
of N that would be wider than all else.

A quotient of b bits with a sign is found from a numerator that is made positive by 2**(b-1)·N: it
then is below 2**b·N, and its highest bit is the sign's complement.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Signal, Value

from l1bn.fixed_point.norm.spec import FRACTION_BITS, INVERSE_K
from l1bn.rtl.unit.scalars.program import Parts, begin_division, multiply, run


def scaled_difference(
    m: Module,
    parts: Parts,
    state: str,
    goes_to: str,
    *,
    scaled: Value,
    a: Value,
    b: Value,
    bits: int,
    then: Sequence[Value] = (),
) -> None:
    """A state, or two, that computes N·scaled − a·b."""
    if not parts.config.counted:
        multiply(
            m, parts, state, goes_to, a=a, b=b, bits=bits,
            addend=scaled << parts.config.log2_elements, subtract=True, then=then,
        )  # fmt: skip
        return
    less = f"{state}_LESS"
    times_count(m, parts, state, less, scaled)
    multiply(
        m, parts, less, goes_to, a=a, b=b, bits=bits, subtract=True, keep=True, then=then
    )  # fmt: skip


def times_count(
    m: Module, parts: Parts, state: str, goes_to: str, a: Value, *, then: Sequence[Value] = ()
) -> None:
    """A state that computes N·a, N being set by a command."""
    bits = parts.config.log2_elements + 2
    multiply(m, parts, state, goes_to, a=a, b=parts.registers.count, bits=bits, then=then)


def divide(
    m: Module, parts: Parts, state: str, goes_to: str, *, then: Sequence[Value] = ()
) -> None:
    """A state that divides the accumulator, begun with ``rounding``, by N: see ``quotient``."""
    bits = parts.config.by_count
    _divide(m, parts, state, goes_to, numerator=parts.scalar.result, bits=bits, then=then)


def _divide(
    m: Module, parts: Parts, state: str, goes_to: str, *,
    numerator: Value, bits: int, then: Sequence[Value],
) -> None:  # fmt: skip
    """The numerator is at least 0 and below 2**bits·N: 2**(bits-1)·N is in it already."""
    divider, r = parts.divider, parts.registers
    assert divider is not None
    run(
        m, parts, state, goes_to,
        start=begin_division(divider, numerator, bits),
        done=divider.done, latch=[r.by_count.eq(1)], then=[r.by_count.eq(0), *then],
    )  # fmt: skip


def quotient(parts: Parts) -> Value:
    """The accumulator by N, rounded to nearest, after ``divide``."""
    return _quotient(parts, parts.config.by_count)


def _quotient(parts: Parts, bits: int) -> Value:
    assert parts.divider is not None
    found = parts.divider.quotient
    return Cat(found[: bits - 1], ~found[bits - 1]).as_signed()


def rounding(parts: Parts) -> Value:
    """What the accumulator begins with before it is divided: half of N, and no sign."""
    count: Signal = parts.registers.count
    return (count >> 1) + (count << (parts.config.by_count - 1))


def divide_total(
    m: Module, parts: Parts, state: str, goes_to: str, *, then: Sequence[Value] = ()
) -> None:
    """A state that finds ⌊μ⌋ and the remainder of Σx, N being set by a command."""
    bits = parts.config.width
    numerator = Signal(len(parts.total))
    m.d.comb += numerator.eq(parts.total + (parts.registers.count << (bits - 1)))
    _divide(m, parts, state, goes_to, numerator=numerator, bits=bits, then=then)


def floor_of_mean(parts: Parts) -> Value:
    """⌊μ⌋, after ``divide_total`` where N is no constant."""
    if parts.config.counted:
        return _quotient(parts, parts.config.width)
    return parts.total >> parts.config.log2_elements


def remainder_of_mean(parts: Parts) -> Value:
    """N·(μ − ⌊μ⌋), after ``divide_total`` where N is no constant."""
    if parts.config.counted:
        assert parts.divider is not None
        return parts.divider.remainder
    return parts.total[: parts.config.log2_elements]


def floor_of_spread(parts: Parts) -> Value | int:
    """Smallest Σ|N·x − S|, or for L2 the smallest √(N·Σx² − S²)."""
    config, r = parts.config, parts.registers
    fraction = config.dividend_fraction
    if config.norm == "l1":
        if not config.counted:
            return config.spec.deviation_floor(config.elements)
        return (r.area >> fraction) + 1
    if not config.counted:
        return config.spec.root_floor(config.elements)
    return (r.count >> fraction) + 1


def square_of_floor(parts: Parts) -> Value | int:
    """Square of the smallest √(N·Σx² − S²)."""
    config = parts.config
    return parts.registers.area if config.counted else config.spec.root_floor(config.elements) ** 2


def dividend(parts: Parts) -> tuple[Value | int, Value | None]:
    """The largest 1/σ, scaled as its divisor, and its bits behind the point where it has some."""
    config, r = parts.config, parts.registers
    if not config.counted:
        return config.dividend, None
    whole = r.area if config.norm == "l1" else r.count
    return whole >> config.dividend_fraction, whole[: config.dividend_fraction]


def count_states(m: Module, parts: Parts, entry: str, goes_to: str) -> None:
    """What all channels need of N: √(2/π)·N², or for L2 the square of the root's floor."""
    r, scalar = parts.registers, parts.scalar
    keeps = [r.area.eq(scalar.result)]
    if parts.config.norm == "l2":
        floor = floor_of_spread(parts)
        bits = parts.config.log2_elements + 2
        multiply(m, parts, entry, goes_to, a=floor, b=floor, bits=bits, then=keeps)
        return
    times_count(m, parts, entry, "COUNT_AREA", r.count)
    multiply(
        m, parts, "COUNT_AREA", goes_to,
        a=scalar.result, b=INVERSE_K, bits=FRACTION_BITS + 2, then=keeps,
    )  # fmt: skip
