"""Units in which a command sets the number of elements, against the integer model."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from amaranth.hdl import Const
from amaranth.sim import Simulator

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit import emit
from l1bn.rtl.unit.ports import Operation
from l1bn.rtl.unit.scalars import backward, count
from l1bn.rtl.unit.top import NormUnit
from l1bn.rtl.verify import testbench
from l1bn.rtl.verify.simulate import MismatchError, simulate
from l1bn.rtl.verify.stimulus import extremes, gaussian

UNITS = [
    {"norm": "l1"},
    {"norm": "l1", "passes": 1},
    {"norm": "l1", "overlap": True},
    {"norm": "l1", "overlap": True, "multipliers": 2},
    {"norm": "l2"},
    {"norm": "l2", "passes": 1, "multipliers": 2},
    {"norm": "l2", "overlap": True},
    {"norm": "l2", "overlap": True, "passes": 1, "multipliers": 2},
    {"norm": "l2", "overlap": True, "passes": 1, "squarer": True},
]


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="needs apt-get install iverilog")
@pytest.mark.parametrize("options", UNITS, ids=str)
def test_any_number_of_elements(options):
    """Small, odd and generated numbers and the largest, at generated widths."""
    rng = np.random.default_rng(UNITS.index(options))
    width, number = int(rng.integers(4, 17)), int(rng.integers(17, 32))
    config = UnitConfig(width=width, elements=32, counted=True, **options)
    source = emit.verilog_text(config)
    for n in (2, 3, 5, number, 32):
        for channels in (extremes(config, count=n), gaussian(config, 3, seed=n, count=n)):
            testbench.run(config, [source], channels, stall=0.2, seed=n)


@pytest.mark.parametrize("options", [UNITS[1], UNITS[2], UNITS[6]], ids=str)
def test_layers_of_different_numbers_follow_one_another(options):
    """Without a reset, with stalls; the first layer has the largest number, as after a reset."""
    config = UnitConfig(width=6, elements=16, counted=True, **options)
    layers = [gaussian(config, 2, count=n) for n in (16, 3, 13)]
    run = simulate(config, layers, stall=0.3)
    each = len(run.steps) // len(layers)
    assert run.clocks == sum(run.steps) - sum(run.steps[::each])  # but for setting the number


def test_the_number_after_a_reset_is_the_largest(monkeypatch):
    config = UnitConfig(width=6, elements=8, counted=True)
    monkeypatch.setattr("l1bn.rtl.verify.schedule.Scheduler.count", lambda self: [])
    simulate(config, extremes(config))
    with pytest.raises(MismatchError, match="phase"):
        simulate(config, extremes(config, count=7))


@pytest.mark.parametrize("number", [0, 1, 9, 15])
def test_a_number_that_cannot_be_is_refused(number):
    unit = NormUnit(UnitConfig(width=6, elements=8, counted=True))

    async def bench(ctx):
        ctx.set(unit.command.payload.operation, Operation.COUNT)
        ctx.set(unit.command.payload.count, number)
        ctx.set(unit.command.valid, 1)
        assert ctx.get(unit.command.ready)
        await ctx.tick()
        ctx.set(unit.command.valid, 0)
        assert ctx.get(unit.command_error)
        assert not ctx.get(unit.phase)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def half_forgotten(parts):
    return parts.registers.count << (parts.config.by_count - 1)


@pytest.mark.parametrize(
    ("owner", "name", "fault", "options"),
    [
        (count, "rounding", half_forgotten, {"norm": "l1"}),
        (count, "remainder_of_mean", lambda parts: Const(0, 3), {"norm": "l1"}),
        (count, "remainder_of_mean", lambda parts: Const(0, 3), {"norm": "l2"}),
        (count, "square_of_floor", lambda parts: Const(9, 4), {"norm": "l2"}),
        (backward, "half_step", lambda parts: Const(0, 1), {"norm": "l1"}),
    ],
)
def test_planted_faults_are_caught(owner, name, fault, options, monkeypatch):
    monkeypatch.setattr(owner, name, fault)
    config = UnitConfig(width=8, elements=8, counted=True, **options)
    with pytest.raises(MismatchError):
        simulate(config, [extremes(config, count=7), gaussian(config, 4, count=5)])


def test_what_has_no_divider_cannot_divide():
    with pytest.raises(ValueError, match="sigma: expected 'exact' with counted=True, got 'pow2'"):
        UnitConfig(sigma="pow2", counted=True)
