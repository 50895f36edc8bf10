"""Scalar program of the forward pass: from the sums of a channel to its coefficient and offset."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed

from l1bn.rtl.unit.scalars import count
from l1bn.rtl.unit.scalars.program import Parts, multiply, run


def forward_states(
    m: Module, parts: Parts, gamma: Signal, beta: Signal, entry: str, goes_to: str
) -> None:
    """States from ``entry``, with the sums complete, to ``goes_to``, ready to normalize.

    Args:
        m: Module with an open state machine.
        parts: The unit's blocks.
        gamma: γ of the channel.
        beta: β of the channel.
        entry: Name of the first state.
        goes_to: State to continue with.
    """
    if parts.config.norm == "l1":
        _deviation(m, parts, entry, "RECIPROCAL")
    else:
        _root(m, parts, entry, "RECIPROCAL")
    if parts.power is not None:
        _power_of_two(m, parts, gamma, "RECIPROCAL", "OFFSET")
    else:
        _divide(m, parts, "RECIPROCAL", "COEFFICIENT")
        _coefficient(m, parts, gamma, "COEFFICIENT", "OFFSET")
    _offset(m, parts, beta, "OFFSET", goes_to)


def _deviation(m: Module, parts: Parts, entry: str, goes_to: str) -> None:
    """Σ|N·x − S| = 2·(N·P − n·S), not below its floor."""
    config, statistic, r = parts.config, parts.statistic, parts.registers
    grow, one_pass = config.log2_elements, config.passes == 1
    distance = Signal(config.width + 1)
    if one_pass:
        guess, true = parts.guess, parts.ceiling
        m.d.comb += distance.eq(Mux(guess > true, guess - true, true - guess))
    count.scaled_difference(
        m, parts, entry, "FLOOR",
        scaled=statistic.high, a=parts.total, b=statistic.above, bits=grow + 2,
        then=[r.distance.eq(distance)] if one_pass else [],
    )  # fmt: skip
    floor = count.floor_of_spread(parts)
    deviation = Signal(signed(len(parts.scalar.result) + 1))
    above_floor = Signal()
    with m.State("FLOOR"):
        m.d.comb += [
            deviation.eq(parts.scalar.result << 1),
            above_floor.eq(deviation > floor),
        ]
        m.d.sync += [r.spread.eq(Mux(above_floor, deviation, floor)), r.live.eq(above_floor)]
        if one_pass and not config.counted:
            # 4 · distance · N² > deviation: the guess is off by more than a quarter deviation.
            m.d.sync += r.far.eq(r.distance > (deviation >> (2 * grow + 2)))
        if config.overlap:
            with m.If(settled(parts)):
                m.next = goes_to
        else:
            m.next = ("DISTANCE" if config.counted else "GUARD") if one_pass else goes_to
    if one_pass and config.counted:
        _distance(m, parts, "DISTANCE", "GUARD")
    if one_pass:
        _guard(m, parts, goes_to)


def _distance(m: Module, parts: Parts, entry: str, goes_to: str) -> None:
    """Whether 4 · distance · N² > deviation; a deviation below its floor is below that, too."""
    r, scalar = parts.registers, parts.scalar
    count.times_count(m, parts, entry, "DISTANCE_SQUARE", r.distance)
    far = (scalar.result << 2) > r.spread
    count.times_count(m, parts, "DISTANCE_SQUARE", goes_to, scalar.result, then=[r.far.eq(far)])


def settled(parts: Parts) -> Signal:
    """The path no longer needs the shift and the offset of the channel before."""
    return parts.path.empty


def _guard(m: Module, parts: Parts, goes_to: str) -> None:
    """Repeat the pass with the true threshold where the guess was too far."""
    r, statistic = parts.registers, parts.statistic
    with m.State("GUARD"):
        m.d.sync += r.threshold.eq(parts.ceiling)
        m.next = goes_to
        with m.If(r.far & ~r.repeated):
            m.d.comb += [statistic.clear_high.eq(1), statistic.clear_above.eq(1)]
            m.d.sync += r.repeated.eq(1)
            m.next = "DEVIATION"


def _root(m: Module, parts: Parts, entry: str, goes_to: str) -> None:
    """√(N·Σx² − S²), not below its floor."""
    config, r = parts.config, parts.registers
    grow = config.log2_elements
    total, bits = parts.total, config.need.sum
    if config.passes == 2:
        # Deviations were taken from ⌊μ⌋; what remains of the mean is the low part of S.
        total, bits = Cat(count.remainder_of_mean(parts), Const(0, 1)).as_signed(), grow + 1
    count.scaled_difference(
        m, parts, entry, "FLOOR", scaled=parts.squares, a=total, b=total, bits=bits
    )  # fmt: skip
    assert parts.root is not None
    square = count.square_of_floor(parts)
    variance = parts.scalar.result
    with m.State("FLOOR"):
        m.d.sync += [r.live.eq(variance > square), r.spread.eq(count.floor_of_spread(parts))]
        m.next = goes_to
        with m.If(variance > square):
            m.next = "ROOT"
    run(
        m, parts, "ROOT", goes_to,
        start=[parts.root.start.eq(1), parts.root.radicand.eq(variance)],
        done=parts.root.done, then=[r.spread.eq(parts.root.root)],
    )  # fmt: skip


def _divide(m: Module, parts: Parts, entry: str, goes_to: str) -> None:
    """Mantissa and exponent of 1/σ."""
    divider, r = parts.divider, parts.registers
    assert divider is not None
    high, fraction = count.dividend(parts)
    run(
        m, parts, entry, goes_to,
        start=[
            divider.start.eq(1), divider.normalize.eq(1), divider.high.eq(high), divider.low.eq(0),
            *([] if fraction is None else [divider.fraction.eq(fraction)]),
        ],
        done=divider.done, then=[r.shift.eq(divider.zeros)],
    )  # fmt: skip


def _coefficient(m: Module, parts: Parts, gamma: Signal, entry: str, goes_to: str) -> None:
    """γ/σ, rounded to the coefficient's format."""
    config, r = parts.config, parts.registers
    assert parts.divider is not None
    mantissa = Cat(Const(1, 1), parts.divider.quotient[: config.coefficient - 1], Const(0, 1))
    multiply(
        m, parts, entry, goes_to,
        a=mantissa.as_signed(), b=gamma, bits=config.width, addend=1 << (config.width - 1),
        then=[r.coefficient.eq(parts.scalar.result >> config.width)],
    )  # fmt: skip


def _power_of_two(m: Module, parts: Parts, gamma: Signal, entry: str, goes_to: str) -> None:
    """The exponent of σ; γ itself is the coefficient."""
    power, r = parts.power, parts.registers
    assert power is not None
    run(
        m, parts, entry, goes_to,
        start=[power.normalize.eq(1), power.deviation.eq(r.spread)],
        done=power.done, then=[r.shift.eq(power.zeros), r.coefficient.eq(gamma << 1)],
    )  # fmt: skip


def _offset(m: Module, parts: Parts, beta: Signal, entry: str, goes_to: str) -> None:
    """β, less the mean times the coefficient, plus the half of the rounding."""
    config, scalar, r = parts.config, parts.scalar, parts.registers
    grow, spec = config.log2_elements, config.spec
    multiply(
        m, parts, entry, "OFFSET_MEAN" if config.counted else "OFFSET_BETA",
        a=parts.total, b=r.coefficient, bits=config.coefficient, subtract=True,
        addend=count.rounding(parts) if config.counted else 1 << (grow - 1),
    )  # fmt: skip
    mean = scalar.result >> grow
    if config.counted:
        count.divide(m, parts, "OFFSET_MEAN", "OFFSET_BETA")
        mean = count.quotient(parts)
    double = Cat(Const(1, 1), beta).as_signed()
    multiply(
        m, parts, "OFFSET_BETA", goes_to,
        a=double, b=half_step(parts), bits=spec.shift_max + 1, addend=mean,
        then=[r.offset_low.eq(scalar.result), r.offset_high.eq(scalar.result)],
    )  # fmt: skip


def half_step(parts: Parts) -> Signal:
    """2**(shift - 1), the half of the output's rounding."""
    first = parts.config.spec.shift_min - 1
    return (Const(1, 1) << parts.registers.shift) << first
