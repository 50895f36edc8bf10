"""The report on FPGAs: what it derives from measurements, and the command on the smallest units."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import pytest

from l1bn import tools
from l1bn.cli import main
from l1bn.rtl.fpga import report
from l1bn.rtl.fpga.family import FAMILIES
from l1bn.rtl.fpga.netlist import Resources
from l1bn.rtl.fpga.records import FpgaRecord, Spread, Work, compare

needs_flow = pytest.mark.skipif(
    tools.missing("yosys", "iverilog", "nextpnr-ice40") is not None,
    reason=str(tools.missing("yosys", "iverilog", "nextpnr-ice40")),
)

L1 = FpgaRecord(
    kind="unit", name="l1", norm="l1", width=8, target="HX8K",
    resources=Resources(luts=900, flip_flops=300, dsps=0, block_rams=0),
    mhz=(50.0, 40.0, 80.0), stimuli={"gaussian": Work(clocks=4.0, moved_pins=300.0)},
)  # fmt: skip
L2 = replace(
    L1, name="l2", norm="l2", resources=replace(L1.resources, luts=1000), mhz=(40.0, 50.0, 32.0),
    stimuli={"gaussian": Work(clocks=6.0, moved_pins=400.0)},
)  # fmt: skip


def test_time_spreads_over_the_seeds():
    assert L1.clock == Spread(50.0, 40.0, 80.0)
    assert L1.time("gaussian") == Spread(80.0, 50.0, 100.0)


def test_comparison_is_of_medians_and_of_the_worst_seeds():
    (row,) = compare([L1, L2, replace(L2, target="UP5K, DSPs")], "gaussian")
    assert row.speed.median == pytest.approx(150 / 80)
    assert row.speed.low == pytest.approx(120 / 100)
    assert row.speed.high == pytest.approx(187.5 / 50)
    assert row.luts_saved == pytest.approx(0.1)
    assert row.pins_saved == pytest.approx(0.25)


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "fpga.csv").write_text("before")
    monkeypatch.setattr(report, "TEMPLATES", tmp_path / "nowhere")
    monkeypatch.setattr(shutil, "which", lambda program, **_: f"/bin/{program}")
    monkeypatch.setattr(tools, "version", lambda program: program)
    with pytest.raises(Exception, match=r"fpga\.md\.jinja"):
        report.write([L1, L2], FAMILIES["ice40"], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["fpga.csv"]
    assert (tmp_path / "fpga.csv").read_text() == "before"


@needs_flow
@pytest.mark.timeout(120)
def test_report_command(tmp_path, capsys):
    arguments = [
        "rtl", "report", "--fpga", "ice40", "--devices", "hx8k", "--seeds", "1", "--no-parts",
        "--width", "4", "--elements", "8", "--variants", "l1", "l2", "--stimuli", "gaussian",
        "--channels", "1", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"),
    ]  # fmt: skip
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert "netlist bit-exact" in output.err
    assert "HX8K, 4 bit: Like for like" in output.out
    with (tmp_path / "out" / "fpga.csv").open() as stream:
        l1, l2 = csv.DictReader(stream)
    for row in (l1, l2):
        time, clocks, mhz = (
            float(row[k]) for k in ("ns_per_element_median", "clocks_per_element", "mhz_median")
        )
        assert time == pytest.approx(1000 * clocks / mhz, rel=1e-4)
    assert float(l1["clocks_per_element"]) < float(l2["clocks_per_element"])
    content = json.loads((tmp_path / "out" / "fpga.json").read_text())
    speed = content["comparisons"]["gaussian"][0]["speed"]["median"]
    times = [float(row["ns_per_element_median"]) for row in (l2, l1)]
    assert speed == pytest.approx(times[0] / times[1], rel=1e-4)
    for name in ("fpga.md", "fpga.html"):
        assert f"{speed:.2f}× (" in (tmp_path / "out" / name).read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "hx1k"], "devices: expected some of hx8k, up5k, up5k-dsp; got 'hx1k'"),
        (["--seeds", "0"], "seeds: expected 1 or more, got 0"),
    ],
)
def test_command_errors(arguments, message, capsys):
    assert main(["rtl", "report", "--fpga", "ice40", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_router_is_named(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert main(["rtl", "report", "--fpga", "ice40"]) == 2
    assert capsys.readouterr().err.strip().endswith("apt-get install nextpnr-ice40")
