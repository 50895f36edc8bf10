"""The parts of a unit alone: bit by bit against the integer model, and weighed."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from l1bn.rtl.cache import Cache
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.report import flow, part_flow
from l1bn.rtl.silicon import synthesis
from l1bn.rtl.silicon.liberty import DEFAULT_LIBERTY
from l1bn.rtl.unit.parts import PARTS
from l1bn.rtl.verify import part_bench, part_vectors, stimulus
from l1bn.rtl.verify.testbench import SimulationError

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="needs apt-get install iverilog"
)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("part", PARTS)
def test_part_is_bit_exact(part, norm):
    for width in (4, 8, 16):
        config = UnitConfig(norm=norm, width=width, elements=16)
        source = part_bench.verilog_text(part, config)
        for channels in (stimulus.gaussian(config, 1, seed=width), stimulus.extremes(config)):
            clocks = part_vectors.vectors(part, config, channels)
            moved = part_bench.run(part, config, [source], clocks)
            assert sum(moved.rises.values()) > 0


@pytest.mark.parametrize(
    ("part", "right", "wrong"),
    [
        ("statistic", "$signed(x) >= $signed(level)", "$signed(x) > $signed(level)"),
        ("reciprocal", "26'h000cc42", "26'h000ce42"),
        ("normalize", ") * $signed(", ") + $signed("),
        ("gradient", ") * $signed(", ") + $signed("),
    ],
)
def test_a_fault_in_a_part_is_caught(part, right, wrong):
    config = UnitConfig(width=8, elements=256)
    clocks = part_vectors.vectors(part, config, stimulus.extremes(config))
    source = part_bench.verilog_text(part, config)
    assert right in source
    with pytest.raises(SimulationError, match="MISMATCH clock"):
        part_bench.run(part, config, [source.replace(right, wrong)], clocks)


@pytest.mark.skipif(
    shutil.which("yosys") is None or not DEFAULT_LIBERTY.exists(),
    reason="needs apt-get install yosys qflow-tech-osu018",
)
@pytest.mark.timeout(600)
def test_parts_in_silicon(tmp_path):
    """What the claim rests on: the statistic and the gradient of L1 are the smaller ones."""
    technology = synthesis.prepare(DEFAULT_LIBERTY)
    measured = {}
    for norm in ("l1", "l2"):
        config = UnitConfig(norm=norm, width=6, elements=32)
        channels = {"gaussian": stimulus.gaussian(config, 1, seed=1)}
        for record in part_flow.measure(
            config, technology, channels, effort=flow.Effort(recipes=("twice",)),
            cache=Cache(tmp_path), say=lambda line: None,
        ):  # fmt: skip
            measured[record.part, norm] = record

    def ratio(part):
        one, two = (measured[part, norm].stimuli["gaussian"] for norm in ("l1", "l2"))
        return two.energy_per_element / one.energy_per_element

    assert ratio("statistic") > 2
    assert ratio("gradient") > 2
    assert 0.8 < ratio("normalize") < 1.25
    assert measured["statistic", "l1"].area < 0.5 * measured["statistic", "l2"].area
    assert measured["reciprocal", "l1"].area < measured["reciprocal", "l2"].area
