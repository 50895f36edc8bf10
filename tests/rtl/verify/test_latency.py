"""The latencies that a datasheet lists."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from l1bn.cli import main
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.verify.latency import MOST_ELEMENTS, latencies
from l1bn.rtl.verify.simulate import simulate
from l1bn.rtl.verify.stimulus import gaussian


@pytest.mark.parametrize(
    ("options", "forward", "backward"),
    [({}, 3, 2), ({"norm": "l2"}, 3, 2), ({"overlap": True}, 1, 2),
     ({"overlap": True, "multipliers": 2}, 1, 1)],
)  # fmt: skip
def test_commands_take_their_passes_and_some_scalars(options, forward, backward):
    config = UnitConfig(width=5, elements=32, **options)
    rows = {row.operation: row for row in latencies(config)}
    assert list(rows) == ["FORWARD", "BACKWARD"]
    assert (rows["FORWARD"].taken, rows["BACKWARD"].taken) == (32 * forward, 32 * backward)
    assert all(row.taken + 10 < row.least <= row.most for row in rows.values())
    clocks = simulate(config, gaussian(config, 4), order="steady").clocks
    low, high = (4 * sum(getattr(row, end) for row in rows.values()) for end in ("least", "most"))
    restores = 4 * 2 if config.overlap else 0  # taken at once, and not in the table
    assert low <= clocks <= high + restores


def test_large_channels_are_simulated_with_fewer_elements():
    config = UnitConfig(width=4, elements=2 * MOST_ELEMENTS)
    assert {row.elements for row in latencies(config)} == {MOST_ELEMENTS}


def test_the_datasheet_has_them(tmp_path):
    arguments = ["rtl", "generate", "--out", str(tmp_path), "--width", "5", "--elements", "8"]
    assert main([*arguments, "--no-check"]) == 0
    (sheet,) = tmp_path.glob("*.md")
    rows = re.findall(r"\| (\w+WARD) \| 8 \| (\d+) \| ([\d to]+) \|", sheet.read_text())
    found = latencies(UnitConfig(width=5, elements=8))
    assert [row[0] for row in rows] == [one.operation for one in found]
    assert [int(row[1]) for row in rows] == [24, 16]
    assert rows[0][2] == found[0].row()[3]
