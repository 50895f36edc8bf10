"""Scalar program of the backward pass: from Σg and Σg·x to the offsets of dx, and dγ."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from l1bn.fixed_point.norm.spec import FRACTION_BITS, INVERSE_K, K
from l1bn.rtl.unit.scalars.normalize import half_step
from l1bn.rtl.unit.scalars.program import Parts, multiply, run


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
    multiply(
        m, parts, entry, "PROJECTION",
        a=parts.total, b=statistic.high, bits=config.need.sum,
        addend=parts.products << config.log2_elements, subtract=True,
    )  # fmt: skip
    if config.norm == "l2":
        _l2(m, parts, goes_to)
        return
    if config.sigma == "pow2":
        q = _pow2_projection(m, parts, "PROJECTION", "BELOW")
    else:
        q = _projection(m, parts, "PROJECTION", "BELOW")
    _l1_offsets(m, parts, q, goes_to)


def _magnitude(m: Module, value: Value) -> Signal:
    size = Signal(len(value))
    m.d.comb += size.eq(Mux(value < 0, -value, value))
    return size


def _projection(m: Module, parts: Parts, entry: str, goes_to: str) -> Signal:
    """Q = Σg·(N·x − S) / Σ|N·x − S| in steps of g/N."""
    config, divider, r = parts.config, parts.divider, parts.registers
    assert divider is not None
    covariance = parts.scalar.result
    size = _magnitude(m, covariance)
    dividend = Cat(Const(0, config.log2_elements + config.divisor_scale), size)
    run(
        m, parts, entry, goes_to,
        start=[
            divider.start.eq(1), divider.high.eq(dividend[config.quotient :]),
            divider.low.eq(dividend[: config.quotient]), divider.count.eq(config.quotient),
        ],
        done=divider.done, latch=[r.negative.eq(covariance < 0)],
    )  # fmt: skip
    return _signed(m, divider.quotient, r.negative, "q")


def _signed(m: Module, magnitude: Signal, negative: Signal, name: str) -> Signal:
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


def _l1_offsets(m: Module, parts: Parts, q: Signal, goes_to: str) -> None:
    """Offsets for elements below and above the mean."""
    config, statistic, scalar, r = parts.config, parts.statistic, parts.scalar, parts.registers
    grow = config.log2_elements
    used = Signal.like(q)
    m.d.comb += used.eq(Mux(r.live, q, 0))
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
    pow2 = config.sigma == "pow2"
    multiply(
        m, parts, "HIGH", goes_to if pow2 else "START_DGAMMA",
        a=used << 1, b=r.coefficient, bits=config.coefficient, subtract=True, keep=True,
        then=[r.offset_high.eq(scalar.result >> grow)],
    )  # fmt: skip
    if pow2:
        return
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
    signed_quotient = _signed(m, divider.quotient, r.negative, "signed_quotient")
    run(
        m, parts, "PROJECTION", "SLOPE_PRODUCT",
        start=[
            divider.start.eq(1), divider.high.eq(size >> quotient), divider.low.eq(size),
            divider.count.eq(quotient),
        ],
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
        start=[
            divider.start.eq(1), divider.high.eq(size >> (c - 1)),
            divider.low.eq(size[: c - 1] << (quotient - (c - 1))), divider.count.eq(c - 1),
        ],
        done=divider.done, latch=[r.negative.eq(scalar.result < 0)],
        then=[r.slope.eq(negated)],
    )  # fmt: skip
    multiply(
        m, parts, "MEAN_TERM", "SLOPE_TERM",
        a=statistic.high, b=r.coefficient, bits=c,
        addend=(half_step(parts) << grow) + (1 << (grow - 1)), subtract=True,
    )  # fmt: skip
    multiply(
        m, parts, "SLOPE_TERM", goes_to,
        a=parts.total, b=r.slope, bits=c, subtract=True, keep=True,
        then=[r.offset_low.eq(scalar.result >> grow)],
    )  # fmt: skip
