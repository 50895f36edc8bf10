"""Every unit against the integer model, bit by bit; planted faults must be caught."""

from __future__ import annotations

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from amaranth.hdl import Const

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit import overlap
from l1bn.rtl.unit.blocks.element import ElementPath
from l1bn.rtl.unit.blocks.statistic import Statistic
from l1bn.rtl.unit.scalars import backward, normalize
from l1bn.rtl.verify.simulate import MismatchError, simulate
from l1bn.rtl.verify.stimulus import extremes, gaussian

VARIANTS = [
    {"norm": "l1"},
    {"norm": "l1", "passes": 1},
    {"norm": "l1", "sigma": "pow2"},
    {"norm": "l1", "passes": 1, "sigma": "pow2"},
    {"norm": "l2"},
    {"norm": "l2", "multipliers": 2},
    {"norm": "l2", "passes": 1},
    {"norm": "l2", "passes": 1, "multipliers": 2},
]
OVERLAPPED = [
    {"norm": "l1", "overlap": True},
    {"norm": "l1", "overlap": True, "sigma": "pow2"},
    {"norm": "l1", "overlap": True, "multipliers": 2},
    {"norm": "l1", "overlap": True, "multipliers": 2, "sigma": "pow2"},
    {"norm": "l2", "overlap": True},
    {"norm": "l2", "overlap": True, "passes": 1, "multipliers": 2},
    {"norm": "l2", "overlap": True, "passes": 1, "squarer": True},
]


def name(options):
    return UnitConfig(**options).name.split("_", 3)[3] + "_" + options["norm"]


@pytest.mark.parametrize("options", VARIANTS + OVERLAPPED, ids=name)
@pytest.mark.parametrize("width", [4, 8, 16])
def test_extreme_channels_with_stalls(options, width):
    config = UnitConfig(width=width, elements=8, **options)
    run = simulate(config, extremes(config, seed=width), stall=0.3, seed=width)
    assert run.clocks == sum(run.steps) > 8 * 4 * 8
    if config.norm == "l1" and config.passes == 1:
        assert run.second_passes >= 1


@pytest.mark.parametrize("options", VARIANTS + OVERLAPPED, ids=name)
@pytest.mark.parametrize("width", [5, 11])
def test_gaussian_channels(options, width):
    config = UnitConfig(width=width, elements=32, **options)
    simulate(config, gaussian(config, 3, seed=width))


@pytest.mark.parametrize("options", VARIANTS, ids=name)
def test_backward_from_restored_contexts(options):
    # At 16 elements the floor holds the deviation of some of these, while Σg·(x − μ) is not zero.
    config = UnitConfig(width=8, elements=16, **options)
    simulate(config, extremes(config), stall=0.2, order="restored")


@pytest.mark.parametrize("options", OVERLAPPED, ids=name)
def test_steady_state_of_a_layer(options):
    """The lanes that would run empty start over; the steps that fill the pipeline do not count."""
    config = UnitConfig(width=8, elements=16, **options)
    run = simulate(config, extremes(config), stall=0.2, order="steady")
    assert run.clocks < sum(run.steps)


def clocks(**options):
    """Of one channel, forward and backward, in a long layer."""
    config = UnitConfig(width=8, elements=64, **options)
    return simulate(config, gaussian(config, 1, seed=3), order="steady").clocks


def test_clocks_per_element_follow_the_passes():
    """L1 multiplies thrice per element; L2 squares as well and multiplies dx twice."""
    two_pass = clocks(norm="l2")
    assert 64 <= two_pass - clocks(norm="l1") < 64 + 40
    assert two_pass - clocks(norm="l2", multipliers=2) == 64
    assert two_pass - clocks(norm="l2", passes=1) >= 60
    assert clocks(norm="l1", sigma="pow2") < clocks(norm="l1")


def test_overlap_takes_statistics_out_of_the_clocks():
    """Passes of 64 elements: 3 of 5 are left of L1, 2 on two multipliers; 5 of 6 of L2, 3."""
    l1, l2 = clocks(norm="l1"), clocks(norm="l2")
    assert 2 * 64 <= l1 - clocks(norm="l1", overlap=True) < 2 * 64 + 16
    assert 3 * 64 - 10 <= l1 - clocks(norm="l1", overlap=True, multipliers=2) < 3 * 64 + 16
    assert 64 - 10 <= l2 - clocks(norm="l2", overlap=True) < 64 + 10
    best = clocks(norm="l2", overlap=True, passes=1, multipliers=2)
    assert 3 * 64 - 10 <= l2 - best < 3 * 64 + 10
    # A squarer leaves the two passes of the gradient, which a second multiplier makes one.
    assert clocks(norm="l2", overlap=True, passes=1, squarer=True) - best == 64


def _caught(monkeypatch_target, name, value, monkeypatch, stall=0.0, **options):
    monkeypatch.setattr(monkeypatch_target, name, value)
    config = UnitConfig(width=8, elements=16, **options)
    with pytest.raises(MismatchError) as caught:
        simulate(config, gaussian(config, 3), stall=stall)
    return str(caught.value)


def test_planted_rounding_fault_is_caught(monkeypatch):
    message = _caught(normalize, "half_step", lambda parts: Const(0, 1), monkeypatch)
    assert "y[" in message
    assert "expected" in message


def test_planted_constant_fault_is_caught(monkeypatch):
    assert "dgamma" in _caught(backward, "INVERSE_K", 52290 + 512, monkeypatch)


def test_planted_mean_sign_fault_is_caught(monkeypatch):
    """The gradient without mean(sgn), as several public versions have it."""
    original = backward.multiply

    def forgets(m, parts, state, goes_to, *, b, **options):
        b = parts.config.elements // 2 if state == "BELOW" else b
        original(m, parts, state, goes_to, b=b, **options)

    assert "dx[" in _caught(backward, "multiply", forgets, monkeypatch)


def test_planted_backpressure_fault_is_caught(monkeypatch):
    original = ElementPath._carry

    def ignores_stalls(self, m, tags, go):
        return original(self, m, tags, Const(1, 1))

    config = UnitConfig(width=8, elements=16)
    monkeypatch.setattr(ElementPath, "_carry", ignores_stalls)
    simulate(config, gaussian(config, 1))  # without stalls the fault does not show
    with pytest.raises(MismatchError):
        simulate(config, gaussian(config, 3), stall=0.3)


def test_planted_lane_fault_is_caught(monkeypatch):
    """An overlapped unit that takes the bit from the threshold of the wrong channel."""
    original = overlap.begin_forward

    def skips_a_lane(m, parts):
        parts.registers.level = parts.registers.threshold
        return original(m, parts)

    assert " above" in _caught(overlap, "begin_forward", skips_a_lane, monkeypatch, overlap=True)


def test_planted_drain_fault_is_caught(monkeypatch):
    """The scalars of the next channel change the shift while elements wait in the path."""
    config = UnitConfig(width=4, elements=8, overlap=True, sigma="pow2")
    simulate(config, extremes(config), stall=0.95, seed=1)
    monkeypatch.setattr(normalize, "settled", lambda parts: Const(1, 1))
    with pytest.raises(MismatchError):
        simulate(config, extremes(config), stall=0.95, seed=1)


def test_planted_comparison_fault_is_caught(monkeypatch):
    original = Statistic.elaborate

    def strict(self, platform):
        self.level = self.level + 1
        return original(self, platform)

    assert _caught(Statistic, "elaborate", strict, monkeypatch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l3"}, "norm: expected 'l1' or 'l2', got 'l3'"),
        ({"elements": 100}, "elements: expected a power of two from 8 to 65536, got 100"),
        ({"multipliers": 2}, "multipliers: expected 1 for L1BN, got 2"),
        ({"multipliers": 3}, "multipliers: expected 1 or 2, got 3"),
        ({"norm": "l2", "sigma": "pow2"}, "sigma: expected 'exact' for L2BN"),
        ({"passes": 3}, "passes: expected 1 or 2, got 3"),
        ({"overlap": True, "passes": 1}, "overlap: expected 2 passes for L1BN, got 1"),
        (
            {"norm": "l2", "overlap": True, "multipliers": 2},
            "overlap: expected for L2BN 2 passes on 1 multiplier or 1 pass on 2, got passes=2",
        ),
        (
            {"norm": "l2", "squarer": True, "passes": 1},
            "squarer: expected norm='l2', overlap=True, passes=1 and multipliers=1 beside it, got",
        ),
        ({"width": 20}, "expected a width of 4 to 16 bits, got 20"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ValueError, match=message):
        UnitConfig(**options)
