"""What the pictures of a datasheet show is what the unit has and does."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")
pytest.importorskip("schemdraw", reason="needs pip install l1bn[rtl]")

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.drawings.blocks import blocks
from l1bn.rtl.drawings.pictures import block_diagram
from l1bn.rtl.drawings.timing import record, wave_json
from l1bn.rtl.unit import emit
from l1bn.rtl.unit.ports import Phase
from l1bn.rtl.verify.stimulus import expected, gaussian

UNITS = [
    {"norm": "l1", "sigma": "pow2"},
    {"norm": "l1", "overlap": True, "multipliers": 2},
    {"norm": "l2", "counted": True},
]


@pytest.mark.parametrize("options", UNITS, ids=str)
def test_every_module_of_the_unit_is_a_block(options):
    config = UnitConfig(width=6, elements=8, **options)
    boundary = emit.describe_interface(config)
    text = emit.verilog_text(config)
    top = text[text.index(f"module {boundary.module}(") :]
    # A name that a wire has, too, is followed by a number.
    instances = set(re.findall(r"(?m)^  \w+ (\w+?)(?:_\d+)? \($", top[: top.index("endmodule")]))
    drawn = blocks(config, boundary)
    assert {b.module for b in drawn} - {""} == instances
    picture = block_diagram(config, boundary).decode()
    assert f"sum {config.element} bits" in picture
    assert boundary.streams["element"].word.port in picture


@pytest.mark.parametrize("options", UNITS, ids=str)
@pytest.mark.parametrize("phase", [Phase.NORMALIZE, Phase.GRADIENT])
def test_the_timing_shows_what_the_judge_says(options, phase):
    """The results that the diagram shows as taken are the first channel's, with its last mark."""
    config = UnitConfig(width=6, elements=8, **options)
    boundary = emit.describe_interface(config, axi=True)
    lines = wave_json(config, boundary, record(config), phase)["signal"]
    shown = {line["name"]: values(line) for line in lines}
    both = zip(shown["m_axis_tvalid"], shown["m_axis_tready"], strict=True)
    taken = [i for i, ends in enumerate(both) if ends == ("1", "1")]
    judged = next(iter(expected(config, gaussian(config, 3, seed=5))))
    want = judged.y if phase is Phase.NORMALIZE else judged.dx
    assert [int(shown["result value"][i]) for i in taken] == want
    assert [shown["m_axis_tlast"][i] for i in taken] == [*"00000001"]
    assert phase.name.lower() in shown["phase"]


def values(line) -> list[str]:
    """The value of each clock; a mark stands for itself where it has no text."""
    texts = iter(line.get("data", ()))
    found: list[str] = []
    for mark in line["wave"]:
        found.append(found[-1] if mark == "." else next(texts) if mark == "=" else mark)
    return found
