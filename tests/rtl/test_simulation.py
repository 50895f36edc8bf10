"""Every unit against the integer model, bit by bit; planted faults must be caught."""

from __future__ import annotations

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from amaranth.hdl import Const

from l1bn.rtl import backward, normalize
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.element import ElementPath
from l1bn.rtl.simulate import MismatchError, simulate
from l1bn.rtl.statistic import Statistic
from l1bn.rtl.stimulus import extremes, gaussian

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


def name(options):
    return "-".join(str(v) for v in options.values())


@pytest.mark.parametrize("options", VARIANTS, ids=name)
@pytest.mark.parametrize("width", [4, 8, 16])
def test_extreme_channels_with_stalls(options, width):
    config = UnitConfig(width=width, elements=8, **options)
    run = simulate(config, extremes(config, seed=width), stall=0.3, seed=width)
    assert len(run.clocks) == 8
    if config.norm == "l1" and config.passes == 1:
        assert run.second_passes >= 1


@pytest.mark.parametrize("options", VARIANTS, ids=name)
@pytest.mark.parametrize("width", [5, 11])
def test_gaussian_channels(options, width):
    config = UnitConfig(width=width, elements=32, **options)
    simulate(config, gaussian(config, 3, seed=width))


@pytest.mark.parametrize("options", VARIANTS, ids=name)
def test_backward_from_restored_contexts(options):
    config = UnitConfig(width=8, elements=16, **options)
    simulate(config, gaussian(config, 3), stall=0.2, restore=True)


def clocks(**options):
    config = UnitConfig(width=8, elements=64, **options)
    return simulate(config, gaussian(config, 2, seed=3)).clocks[0]


def test_clocks_per_element_follow_the_passes():
    """L1 multiplies thrice per element; L2 squares as well and multiplies dx twice."""
    two_pass = clocks(norm="l2")
    assert 64 <= two_pass - clocks(norm="l1") < 64 + 40
    assert two_pass - clocks(norm="l2", multipliers=2) == 64
    assert two_pass - clocks(norm="l2", passes=1) >= 60
    assert clocks(norm="l1", sigma="pow2") < clocks(norm="l1")


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
        ({"width": 20}, "expected a width of 4 to 16 bits, got 20"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ValueError, match=message):
        UnitConfig(**options)
