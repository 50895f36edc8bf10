"""Channels to feed, and what the integer model says must come back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l1bn import fixed_point as fp
from l1bn.fixed_point.formats import IntArray
from l1bn.rtl.config import UnitConfig


@dataclass(frozen=True)
class Channels:
    """Input of a unit: one row per channel.

    Shape:
        - x, g: ``(C, N)``
        - gamma, beta, guess: ``(C,)``
    """

    x: IntArray
    g: IntArray
    gamma: IntArray
    beta: IntArray
    guess: IntArray

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Expected:
    """What the integer model computes for one channel."""

    y: list[int]
    bits: list[int]
    dx: list[int]
    dgamma: int
    dbeta: int
    total: int
    spread: int
    live: bool
    second_pass: bool


def gaussian(
    config: UnitConfig, channels: int, seed: int = 0, *, count: int | None = None
) -> Channels:
    """Gaussian channels: a spread of 1/8 to 1/3 of the range, means off by up to that much.

    Gradients correlate weakly with x, as they do in training. The guess of one-pass statistics is
    the threshold of a second sample of the same distribution: the previous batch. Channels have
    ``count`` elements, or as many as the unit has.
    """
    rng = np.random.default_rng(seed)
    spec, n = config.spec, count or config.elements
    unit = 2.0 ** (config.width - 3)
    mean, spread = rng.normal(0, 0.4, (channels, 1)), rng.uniform(0.5, 1.3, (channels, 1))

    def sample() -> IntArray:
        return spec.data.saturate(np.round(unit * (mean + spread * rng.normal(size=(channels, n)))))

    x, before = sample(), sample()
    g = spec.data.saturate(np.round(unit * rng.normal(0, 1, x.shape) + 0.1 * x))
    return from_data(config, x, g, seed=seed, before=before)


def from_data(
    config: UnitConfig, x: IntArray, g: IntArray, *, seed: int = 0, before: IntArray | None = None
) -> Channels:
    """Channels of given data with random γ around 1 and β around 0.

    Shape:
        - x, g, before: ``(C, N)``
    """
    rng = np.random.default_rng(seed + 1)
    spec, count = config.spec, len(x)
    gamma = spec.gamma.quantize(rng.normal(1, 0.2, count))
    beta = spec.output.quantize(rng.normal(0, 0.3, count))
    source = x if before is None else before
    guess = -((-source.sum(1)) // source.shape[1])
    return Channels(x, g, gamma, beta, guess)


def named(name: str, config: UnitConfig, channels: int) -> Channels:
    """Stimulus by name: "gaussian", or "activations" of a trained network.

    Raises:
        ValueError: If the name is unknown.
    """
    if name == "gaussian":
        return gaussian(config, channels, seed=1)
    if name == "activations":
        return activations(config, channels)
    raise ValueError(f"stimulus: expected 'gaussian' or 'activations', got {name!r}")


def activations(config: UnitConfig, channels: int) -> Channels:
    """Inputs and output gradients of normalization layers in a network that is being trained.

    Recorded by benchmarks/rtl/record_activations.py at 16 bits and rounded to the unit's width;
    each channel has its values of the previous batch, for one-pass statistics. Rows are repeated or
    cut to the unit's element count.
    """
    with np.load(Path(__file__).parent / "activations.npz") as stored:
        rows = {name: stored[name].astype(np.int64) for name in ("x", "g", "before")}
    spec, drop = config.spec, 16 - config.width

    def fit(values: IntArray) -> IntArray:
        index = np.arange(channels) % len(values)
        wide = np.resize(values[index], (channels, values.shape[1]))
        tiles = -(-config.elements // wide.shape[1])
        wide = np.tile(wide, (1, tiles))[:, : config.elements]
        return spec.data.saturate((wide + (1 << drop >> 1)) >> drop)

    x, g, before = (fit(rows[name]) for name in ("x", "g", "before"))
    return from_data(config, x, g, before=before)


def extremes(config: UnitConfig, seed: int = 0, *, count: int | None = None) -> Channels:
    """Constant, one-hot, two-valued, saturated and random channels at the ends of the formats.

    They have ``count`` elements, or as many as the unit has.
    """
    rng = np.random.default_rng(seed)
    spec, n = config.spec, count or config.elements
    low, high = spec.data.low, spec.data.high
    one = np.zeros(n, dtype=np.int64)
    one[n // 3] = 1
    half = np.where(np.arange(n) % 2 == 0, low, high)
    ramp = np.linspace(low, high, n).round().astype(np.int64)
    noise = rng.integers(low, high + 1, n)
    rows = [0 * one, 0 * one + low, 0 * one + high, one, -one, half, ramp, noise]
    x = np.stack(rows)
    g = np.stack([noise, half, -half - 1, ramp, noise, np.where(half > 0, low, high), half, noise])
    ends = [spec.gamma.low, spec.gamma.high]
    gamma = np.array([ends[i % 2] for i in range(len(x))])
    beta = np.array([(spec.output.high, spec.output.low, 0)[i % 3] for i in range(len(x))])
    guess = np.array([low, high, 0, 1, 0, 1, high, int(noise.mean())])
    return Channels(x, g, gamma, beta, guess)


def expected(config: UnitConfig, channels: Channels) -> Iterator[Expected]:
    """What the integer model computes, channel by channel."""
    spec = config.spec
    for i in range(len(channels)):
        row = slice(i, i + 1)
        x, g = channels.x[row], channels.g[row]
        gamma, beta = channels.gamma[row], channels.beta[row]
        if config.norm == "l1":
            guess = channels.guess[row] if config.passes == 1 else None
            out = fp.l1_forward(x, gamma, beta, spec, guess)
            back = fp.l1_backward(g, x, out.channel, spec)
            statistics = out.channel.statistics
            assert isinstance(statistics, fp.L1Statistics)
            spread, again = statistics.deviation[0], bool(statistics.second_pass[0])
        else:
            out = fp.l2_forward(x, gamma, beta, spec)
            back = fp.l2_backward(g, x, out.channel, spec)
            assert isinstance(out.channel.statistics, fp.L2Statistics)
            spread, again = out.channel.statistics.root[0], False
        yield Expected(
            y=out.y[0].tolist(),
            bits=out.bits[0].tolist(),
            dx=back.dx[0].tolist(),
            dgamma=int(back.dgamma[0]),
            dbeta=int(back.dbeta[0]),
            total=int(out.channel.statistics.total[0]),
            spread=int(spread),
            live=bool(out.channel.statistics.live[0]),
            second_pass=again,
        )
