"""What is fed to a part, clock by clock, and what the integer model says it must show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from l1bn import fixed_point as fp
from l1bn.fixed_point.formats import ScalarArray
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.parts import PartName
from l1bn.rtl.verify.stimulus import Channels

#: Register stages of the element path, from an element to its result.
STAGES = 4


@dataclass
class Clock:
    """One clock.

    Attributes:
        inputs: Ports and their values; the others keep theirs.
        outputs: Ports to judge at the end of the clock, before the edge.
    """

    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Scalars:
    """Everything per channel that the integer model computes on the way."""

    x: list[int]
    g: list[int]
    bits: list[int]
    y: list[int]
    dx: list[int]
    total: int
    spread: int
    mantissa: int
    exponent: int
    coefficient: int
    offset: int
    offset_low: int
    offset_high: int
    slope: int


def scalars(config: UnitConfig, channels: Channels, i: int) -> Scalars:
    """The integer model's values of channel ``i``."""
    spec, n, row = config.spec, config.elements, slice(i, i + 1)
    x, g, gamma, beta = (getattr(channels, k)[row] for k in ("x", "g", "gamma", "beta"))
    if config.norm == "l1":
        out = fp.l1_forward(x, gamma, beta, spec)
        back = fp.l1_backward(g, x, out.channel, spec)
    else:
        out = fp.l2_forward(x, gamma, beta, spec)
        back = fp.l2_backward(g, x, out.channel, spec)
    statistics = out.channel.statistics
    total, shift = int(statistics.total[0]), int(out.channel.shift[0])
    coefficient, live = int(out.channel.coefficient[0]), bool(statistics.live[0])
    half, gradient_half = 1 << (shift - 1), 1 << (shift + spec.dx_shift - 1)
    sum_g, sum_gx = int(g.sum()), int((g * x).sum())
    covariance = n * sum_gx - total * sum_g
    slope = 0
    if isinstance(statistics, fp.L1Statistics):
        spread = int(statistics.deviation[0])
        slopes = fp.l1_slopes(_array(sum_g), _array(covariance), out.channel, spec)
        low, high = (int(o[0]) + gradient_half for o in (slopes.low, slopes.high))
    else:
        root, limit = int(statistics.root[0]), spec.coefficient.high
        spread = max(n * int((x * x).sum()) - total * total, root * root)
        dgamma = _truncated(covariance, root)
        slope = max(-limit, min(limit, _truncated(coefficient * dgamma, root))) if live else 0
        low = high = _nearest(slope * total - coefficient * sum_g, n) + gradient_half
    return Scalars(
        x=x[0].tolist(),
        g=g[0].tolist(),
        bits=out.bits[0].tolist(),
        y=out.y[0].tolist(),
        dx=back.dx[0].tolist(),
        total=total,
        spread=spread,
        mantissa=int(out.channel.reciprocal.mantissa[0]),
        exponent=shift - spec.shift_min,
        coefficient=coefficient,
        offset=_nearest(-coefficient * total, n) + (int(beta[0]) << shift) + half,
        offset_low=low,
        offset_high=high,
        slope=-slope,
    )


def _nearest(value: int, count: int) -> int:
    return (2 * value + count) // (2 * count)


def _array(value: int) -> ScalarArray:
    return np.array([value], dtype=object)


def _truncated(value: int, divisor: int) -> int:
    return abs(value) // divisor * (-1 if value < 0 else 1)


def vectors(name: PartName, config: UnitConfig, channels: Channels) -> list[Clock]:
    """Every clock of some channels."""
    made = (scalars(config, channels, i) for i in range(len(channels)))
    write = {
        "statistic": _statistic, "reciprocal": _reciprocal,
        "normalize": _normalize, "gradient": _gradient,
    }[name]  # fmt: skip
    return [clock for s in made for clock in write(config, s)]


def _statistic(config: UnitConfig, s: Scalars) -> Iterator[Clock]:
    yield Clock({"clear": 1, "take": 0, "deviation": 0, "latch": 0})
    for x in s.x:
        yield Clock({"clear": 0, "take": 1, "x": x})
    yield Clock({"take": 0, "latch": 1})
    for x in s.x:
        yield Clock({"take": 1, "latch": 0, "deviation": 1, "x": x})
    if config.norm == "l1":
        high = sum(x for x, bit in zip(s.x, s.bits, strict=True) if bit)
        yield Clock({"take": 0}, {"total": s.total, "above": sum(s.bits), "high": high})
        return
    for _ in range(STAGES - 1):
        yield Clock({"take": 0})
    mean = s.total // config.elements
    yield Clock({}, {"total": s.total, "squares": sum((x - mean) ** 2 for x in s.x)})


def _reciprocal(config: UnitConfig, s: Scalars) -> Iterator[Clock]:
    yield Clock({"start": 1, "spread": s.spread})
    significant = config.coefficient - 1
    clocks = s.exponent + significant
    if config.norm == "l2":
        clocks += config.divisor + 1
    for _ in range(clocks):
        yield Clock({"start": 0}, {"done": 0})
    yield Clock({}, {"mantissa": s.mantissa, "exponent": s.exponent, "done": 1})


def _normalize(_: UnitConfig, s: Scalars) -> Iterator[Clock]:
    held = {"coefficient": s.coefficient, "offset": s.offset, "shift": s.exponent}
    yield Clock({"load": 1, "take": 0, **held})
    yield from _stream([{"take": 1, "load": 0, "value": x} for x in s.x], s.y, 1)


def _gradient(config: UnitConfig, s: Scalars) -> Iterator[Clock]:
    shift = s.exponent + config.spec.dx_shift
    held = {"coefficient": s.coefficient, "offset": s.offset_low, "shift": shift}
    if config.norm == "l1":
        yield Clock({"load": 1, "take": 0, "offset_above": s.offset_high, **held})
        each = [
            {"take": 1, "load": 0, "value": g, "above": bit}
            for g, bit in zip(s.g, s.bits, strict=True)
        ]
        yield from _stream(each, s.dx, 1)
        return
    yield Clock({"load": 0, "take": 0, "slope": s.slope, **held})
    pairs = [
        half
        for g, x in zip(s.g, s.x, strict=True)
        for half in ({"take": 1, "second": 0, "value": g, "x": x}, {"second": 1})
    ]
    yield from _stream(pairs, s.dx, 2)


def _stream(inputs: list[dict[str, int]], results: list[int], every: int) -> Iterator[Clock]:
    """Clocks of a pass whose results come ``STAGES`` clocks after the last input of each."""
    clocks = [Clock(dict(fields)) for fields in inputs]
    clocks += [Clock({"take": 0}) for _ in range(STAGES)]
    for index, result in enumerate(results):
        clocks[(index + 1) * every - 1 + STAGES].outputs = {"valid": 1, "result": result}
    return iter(clocks)
