"""Scalar program of the backward pass: from Σg and Σg·x to the offsets of dx, and dγ."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from l1bn.fixed_point.norm.spec import FRACTION_BITS, INVERSE_K, K
from l1bn.rtl.unit.scalars import count
from l1bn.rtl.unit.scalars.normalize import half_step
from l1bn.rtl.unit.scalars.program import Parts, begin_division, multiply, run


def backward_states(m: Module, parts: Parts, entry: str, goes_to: str) -> None:
    """States from ``entry``, with the reductions complete, to ``goes_to``, ready for dx.

    L1BN's last product, dγ, runs beside the pass of dx where that pass follows: it is finished
    before the pass is.

    Args:
        m: Module with an open state machine.
        parts: The unit's blocks.
        entry: Name of the first state.
        goes_to: State to continue with.
    """
    config, statistic = parts.config, parts.statistic
    scales = config.counted and config.norm == "l1"
    count.scaled_difference(
        m, parts, entry, "SCALE_COVARIANCE" if scales else "PROJECTION",
        scaled=parts.products, a=parts.total, b=statistic.high, bits=config.need.sum,
    )  # fmt: skip
    if config.norm == "l2":
        _l2(m, parts, goes_to)
        return
    if config.sigma == "pow2":
        q = _pow2_projection(m, parts, "PROJECTION", "BELOW")
    else:
        q = _projection(m, parts, "PROJECTION", "BELOW")
    offsets = _counted_offsets if config.counted else _l1_offsets
    used = Signal.like(q)
    m.d.comb += used.eq(Mux(parts.registers.live, q, 0))
    if config.sigma == "pow2":
        offsets(m, parts, used, goes_to)
        return
    offsets(m, parts, used, "START_DGAMMA")
    _start_dgamma(m, parts, q, goes_to)


def _magnitude(m: Module, value: Value) -> Signal:
    size = Signal(len(value))
    m.d.comb += size.eq(Mux(value < 0, -value, value))
    return size


def _projection(m: Module, parts: Parts, entry: str, goes_to: str) -> Signal:
    """Q = Σg·(N·x − S) / Σ|N·x − S| in steps of g/N."""
    config, divider, r = parts.config, parts.divider, parts.registers
    assert divider is not None
    covariance = parts.scalar.result
    dividend: Value = _magnitude(m, covariance)
    if not config.counted:
        dividend = Cat(Const(0, config.log2_elements + config.divisor_scale), dividend)
    else:
        count.times_count(m, parts, "SCALE_COVARIANCE", entry, covariance)
    q = _signed(m, divider.quotient[: config.quotient], r.negative, "q")
    run(
        m, parts, entry, goes_to,
        start=begin_division(divider, dividend, config.quotient),
        done=divider.done, latch=[r.negative.eq(covariance < 0)],
        then=[r.projection.eq(q)] if config.counted else [],
    )  # fmt: skip
    return r.projection if config.counted else q


def _signed(m: Module, magnitude: Value, negative: Signal, name: str) -> Signal:
    value = Signal(signed(len(magnitude) + 1), name=name)
    m.d.comb += value.eq(Mux(negative, -magnitude, magnitude))
    return value


def _pow2_projection(m: Module, parts: Parts, entry: str, goes_to: str) -> Signal:
    """dγ by a shift; q = √(π/2)·dγ by a product with the constant."""
    config, power, r = parts.config, parts.power, parts.registers
    assert power is not None
    run(
        m, parts, entry, "SCALE_PROJECTION",
        start=[
            power.shift.eq(1), power.value.eq(parts.scalar.result), power.amount.eq(r.shift),
        ],
        done=power.done, then=[r.dgamma.eq(power.shifted)],
    )  # fmt: skip
    q = Signal(signed(config.quotient + 2), reset_less=True)
    multiply(
        m, parts, "SCALE_PROJECTION", goes_to,
        a=r.dgamma, b=K, bits=FRACTION_BITS + 2,
        then=[q.eq(parts.scalar.result >> FRACTION_BITS)],
    )  # fmt: skip
    return q


def _l1_offsets(m: Module, parts: Parts, used: Signal, goes_to: str) -> None:
    """Offsets for elements below and above the mean, of q or 0."""
    config, statistic, scalar, r = parts.config, parts.statistic, parts.scalar, parts.registers
    grow = config.log2_elements
    multiply(
        m, parts, "BELOW", "LOW",
        a=used, b=statistic.above, bits=grow + 2,
        addend=(statistic.high << (grow - 1)) + (1 << (grow - 2)), subtract=True,
    )  # fmt: skip
    multiply(
        m, parts, "LOW", "HIGH",
        a=scalar.result >> (grow - 1), b=r.coefficient, bits=config.coefficient,
        addend=(half_step(parts) << grow) + (1 << (grow - 1)), subtract=True,
        then=[r.offset_low.eq(scalar.result >> grow)],
    )  # fmt: skip
    multiply(
        m, parts, "HIGH", goes_to,
        a=used << 1, b=r.coefficient, bits=config.coefficient, subtract=True, keep=True,
        then=[r.offset_high.eq(scalar.result >> grow)],
    )  # fmt: skip


def _counted_offsets(m: Module, parts: Parts, used: Signal, goes_to: str) -> None:
    """The same with N from a command: three divisions by it."""
    config, r = parts.config, parts.registers
    c = config.coefficient
    multiply(
        m, parts, "BELOW", "BELOW_MEAN",
        a=used << 1, b=parts.statistic.above, bits=config.log2_elements + 2,
        addend=count.rounding(parts), subtract=True,
    )  # fmt: skip
    count.divide(m, parts, "BELOW_MEAN", "LOW")
    below = parts.statistic.high + count.quotient(parts)
    multiply(
        m, parts, "LOW", "LOW_MEAN",
        a=below, b=r.coefficient, bits=c,
        addend=count.rounding(parts), subtract=True,
    )  # fmt: skip
    _offset(m, parts, "LOW_MEAN", "HIGH", r.offset_low)
    multiply(
        m, parts, "HIGH", "HIGH_MEAN",
        a=used << 1, b=r.coefficient, bits=c, subtract=True, keep=True,
    )  # fmt: skip
    _offset(m, parts, "HIGH_MEAN", goes_to, r.offset_high)


def _offset(m: Module, parts: Parts, entry: str, goes_to: str, target: Signal) -> None:
    """An offset of dx: the accumulator by N, and the half of the rounding."""
    value = count.quotient(parts) + half_step(parts)
    count.divide(m, parts, entry, goes_to, then=[target.eq(value)])


def _start_dgamma(m: Module, parts: Parts, q: Signal, goes_to: str) -> None:
    """dγ = √(2/π)·q, beside what follows."""
    scalar = parts.scalar
    with m.State("START_DGAMMA"):
        m.d.comb += [
            scalar.start.eq(1), scalar.a.eq(q), scalar.b.eq(INVERSE_K),
            scalar.digits.eq((FRACTION_BITS + 3) // 2), scalar.addend.eq(1 << (FRACTION_BITS - 1)),
        ]  # fmt: skip
        m.next = goes_to


def _l2(m: Module, parts: Parts, goes_to: str) -> None:
    """dγ, the slope against x, and the offset."""
    config, divider, r = parts.config, parts.divider, parts.registers
    assert divider is not None
    statistic, scalar = parts.statistic, parts.scalar
    grow, c, quotient = config.log2_elements, config.coefficient, config.quotient
    size = _magnitude(m, scalar.result)
    limit = config.spec.coefficient.high
    signed_quotient = _signed(m, divider.quotient[:quotient], r.negative, "signed_quotient")
    run(
        m, parts, "PROJECTION", "SLOPE_PRODUCT",
        start=begin_division(divider, size, quotient),
        done=divider.done, latch=[r.negative.eq(scalar.result < 0)],
        then=[r.dgamma.eq(signed_quotient)],
    )  # fmt: skip
    multiply(
        m, parts, "SLOPE_PRODUCT", "SLOPE",
        a=r.dgamma, b=r.coefficient, bits=c,
    )  # fmt: skip
    # The path adds x · slope, so the slope is stored negated.
    size_out = Signal(c - 1)
    m.d.comb += size_out.eq(Mux(divider.overflow, limit, divider.quotient[: c - 1]))
    negated = Mux(r.live, Mux(r.negative, size_out, -size_out), 0)
    run(
        m, parts, "SLOPE", "MEAN_TERM",
        start=begin_division(divider, size, c - 1),
        done=divider.done, latch=[r.negative.eq(scalar.result < 0)],
        then=[r.slope.eq(negated)],
    )  # fmt: skip
    multiply(
        m, parts, "MEAN_TERM", "SLOPE_TERM",
        a=statistic.high, b=r.coefficient, bits=c, subtract=True,
        addend=(
            count.rounding(parts) if config.counted
            else (half_step(parts) << grow) + (1 << (grow - 1))
        ),
    )  # fmt: skip
    multiply(
        m, parts, "SLOPE_TERM", "OFFSET_MEAN_TERM" if config.counted else goes_to,
        a=parts.total, b=r.slope, bits=c, subtract=True, keep=True,
        then=[] if config.counted else [r.offset_low.eq(scalar.result >> grow)],
    )  # fmt: skip
    if config.counted:
        _offset(m, parts, "OFFSET_MEAN_TERM", goes_to, r.offset_low)
