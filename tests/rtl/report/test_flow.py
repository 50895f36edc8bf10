"""From emitted Verilog to a report, with the real tools on small units."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from l1bn.cli import main
from l1bn.errors import UserError
from l1bn.rtl.cache import Cache
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.report import flow, plots
from l1bn.rtl.silicon import cells, synthesis, timing
from l1bn.rtl.silicon.liberty import DEFAULT_LIBERTY
from l1bn.rtl.silicon.netlist import from_yosys
from l1bn.rtl.unit import emit
from l1bn.rtl.variants import VARIANTS, select
from l1bn.rtl.verify import stimulus, testbench

needs_iverilog = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="needs apt-get install iverilog"
)
needs_flow = pytest.mark.skipif(
    any(shutil.which(p) is None for p in ("iverilog", "yosys")) or not DEFAULT_LIBERTY.exists(),
    reason="needs apt-get install yosys iverilog qflow-tech-osu018",
)


@needs_iverilog
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.key)
def test_emitted_verilog_is_bit_exact(variant):
    config = variant.config(width=6, elements=16)
    source = emit.verilog_text(config)
    for channels in (stimulus.extremes(config), stimulus.activations(config, 3)):
        run = testbench.run(config, [source], channels, stall=0.3)
        assert run.clocks > len(channels) * 2 * config.elements


@needs_iverilog
def test_a_fault_in_the_verilog_is_caught():
    config = UnitConfig(width=6, elements=16)
    source = emit.verilog_text(config)
    broken, count = re.subn(r"\$signed\((\\?a\S*)\) \* ", r"$signed(\1) + ", source, count=1)
    if not count:
        broken = source.replace(" * ", " + ", 1)
    assert broken != source
    with pytest.raises(testbench.SimulationError, match="MISMATCH result"):
        testbench.run(config, [broken], stimulus.gaussian(config, 1))


def test_manifest_says_which_verilog_it_describes(tmp_path):
    config = UnitConfig(width=8, elements=64, passes=1)
    paths = emit.write(config, tmp_path, axi=True)
    described = json.loads(paths.manifest.read_text())
    assert described["sha256"] == hashlib.sha256(paths.source.read_bytes()).hexdigest()
    assert described["formats"]["y"] == {"bits": 8, "fraction": 4}


@pytest.fixture(scope="module")
def technology():
    return synthesis.prepare(DEFAULT_LIBERTY)


def measure(config, technology, folder, lines, **effort):
    channels = {"gaussian": stimulus.gaussian(config, 2, seed=1)}
    return flow.measure(
        config, technology, channels, effort=flow.Effort(recipes=("twice",), **effort),
        cache=Cache(folder), say=lines.append,
    )  # fmt: skip


@needs_flow
@pytest.mark.timeout(900)
def test_units_at_eight_bits(technology, tmp_path):
    """Synthesis, netlist simulation with delays, timing and energy of L1 and L2."""
    records = {}
    for norm in ("l1", "l2"):
        config = UnitConfig(norm=norm, width=8, elements=32)
        lines: list[str] = []
        records[norm] = measure(config, technology, tmp_path, lines)
        assert not any("stored" in line for line in lines)
    l1, l2 = records["l1"], records["l2"]
    assert 1 < l1.period < 6
    assert l1.clock_gates > 8
    assert l1.area < l2.area
    now, base = l1.stimuli["gaussian"], l2.stimuli["gaussian"]
    assert now.energy_per_element < 0.75 * base.energy_per_element
    assert now.clocks < base.clocks
    parts = sum(now.by_phase.values())
    assert parts == pytest.approx(now.switching + now.internal)
    assert sum(now.by_block.values()) == pytest.approx(parts)
    # The deviation pass of L1 is sums and a comparison; that of L2 squares.
    assert now.by_phase["DEVIATION"] < 0.5 * base.by_phase["DEVIATION"]

    lines = []
    again = measure(UnitConfig(width=8, elements=32), technology, tmp_path, lines)
    assert again == l1
    assert all("stored" in line for line in lines)


@needs_flow
@pytest.mark.timeout(600)
def test_clock_gates_save_energy(technology, tmp_path):
    config = UnitConfig(width=4, elements=16)
    gated = measure(config, technology, tmp_path, [])
    plain = measure(config, technology, tmp_path, [], gating=False)
    assert plain.clock_gates == 0
    one, two = (r.stimuli["gaussian"].energy_per_element for r in (gated, plain))
    assert one < 0.9 * two


@pytest.fixture(scope="module")
def gates(technology):
    """Netlist and timing of a small unit, and its run at a multiple of its own clock."""
    config = UnitConfig(width=4, elements=16)
    target = flow.first_guess(technology.library, config.width)
    text, _ = synthesis.synthesize(
        emit.verilog_text(config), config.name, technology, target, cache=Cache(None)
    )
    library = technology.library
    netlist = from_yosys(text, config.name)
    result = timing.analyse(netlist, library)
    models = cells.models(library, library.cells)
    delays = cells.sdf(netlist, library, result)

    def run(instances, clock=flow.MARGIN):
        broken = replace(netlist, instances=instances)
        return testbench.run(
            config, [broken.verilog(), models], stimulus.extremes(config),
            period=result.period * clock, delays=delays,
        )  # fmt: skip

    return netlist, run


@needs_flow
@pytest.mark.timeout(600)
def test_netlist_with_delays_is_bit_exact_at_its_own_clock_and_not_beyond(gates):
    netlist, run = gates
    assert run(netlist.instances).clocks > 0
    with pytest.raises(testbench.SimulationError, match="errors"):
        run(netlist.instances, clock=0.6)


@needs_flow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["other gate", "stuck at one", "stuck at zero", "swapped nets"])
def test_a_fault_in_the_netlist_is_caught(gates, fault):
    """One cell of the multiplier's sum is wrong."""
    netlist, run = gates
    instances = list(netlist.instances)
    ends = {net for net, name in netlist.aliases.items() if name.startswith("path.product")}
    at = next(
        n for n, i in enumerate(instances) if i.kind.startswith("DFF") and i.pins["Q"] in ends
    )
    source = instances[at].pins["D"]
    if fault == "other gate":
        at = next(n for n, i in enumerate(instances) if i.pins.get("Y") == source)
        kinds = {"AND2": "OR2X1", "OR2X": "AND2X1", "NAND": "NOR2X1", "NOR2": "NAND2X1",
                 "XOR2": "XNOR2X1", "XNOR": "XOR2X1", "INVX": "BUFX2", "BUFX": "INVX1"}  # fmt: skip
        old = instances[at]
        if old.kind[:4] in kinds and len(old.pins) <= 3:
            instances[at] = replace(old, kind=kinds[old.kind[:4]])
        else:  # a complex gate: tie its first input
            instances[at] = replace(old, pins={**old.pins, "A": "1'b1"})
    elif fault == "swapped nets":
        other = next(
            n for n, i in enumerate(instances)
            if n != at and i.kind.startswith("DFF") and i.pins["Q"] in ends
        )  # fmt: skip
        one, two = instances[at], instances[other]
        instances[at] = replace(one, pins={**one.pins, "D": two.pins["D"]})
        instances[other] = replace(two, pins={**two.pins, "D": one.pins["D"]})
    else:
        level = "1'b1" if fault == "stuck at one" else "1'b0"
        instances[at] = replace(instances[at], pins={**instances[at].pins, "D": level})
    with pytest.raises(testbench.SimulationError, match="MISMATCH"):
        run(instances)


@needs_flow
@pytest.mark.timeout(600)
def test_report_command(tmp_path, capsys):
    arguments = [
        "rtl", "report", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"),
        "--width", "4", "--elements", "16", "--recipes", "twice", "--channels", "1",
        "--variants", "l1", "l2", "l1-overlap", "l2-overlap", "--stimuli", "gaussian",
    ]  # fmt: skip
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert "Like for like" in output.out
    assert "bit-exact" in output.err
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [r["variant"] for r in content["records"]] == [
        "l1", "l2", "l1-overlap", "l2-overlap",
    ]  # fmt: skip
    row = content["comparisons"]["gaussian"][0]
    one, two = (content["records"][i]["stimuli"]["gaussian"] for i in (0, 1))
    assert row["speed"] == pytest.approx(two["time_per_element"] / one["time_per_element"])
    for name in ("report.md", "report.html", "frontier.svg", "passes.svg", "parts.svg"):
        assert (tmp_path / "out" / name).stat().st_size > 1000
    assert (tmp_path / "out" / "units.csv").read_text().count("\n") == 1 + 4
    assert (tmp_path / "out" / "parts.csv").read_text().count("\n") == 1 + 8
    assert f"{row['speed']:.2f}×" in (tmp_path / "out" / "report.md").read_text()


def test_generate_command(tmp_path, capsys):
    arguments = ["rtl", "generate", "--out", str(tmp_path), "--width", "5", "--elements", "8"]
    assert main(arguments) == 0
    assert "bit-exact" in capsys.readouterr().out
    assert (tmp_path / "l1_w5_n8_m1_p2.v").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rtl", "generate", "--elements", "100"], "expected a power of two from 8 to 65536"),
        (["rtl", "generate", "--multipliers", "2"], "multipliers: expected 1 for L1BN, got 2"),
        (["rtl", "weigh"], 'no command "rtl weigh"; commands: rtl generate, rtl report, rtl prove'),
    ],
)
def test_command_errors(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_missing_programs_are_named(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["rtl", "report"]) == 2
    assert "apt-get install iverilog yosys" in capsys.readouterr().err


def test_every_variant_has_a_mark_in_the_plots():
    assert set(plots._MARKS) == {v.key for v in VARIANTS}


def test_unknown_variant():
    with pytest.raises(UserError, match=r"expected all, main, or some of l1, .*; got 'l7'"):
        select(("l7",))


def test_cache_keeps_whole_results_only(tmp_path):
    cache = Cache(tmp_path)

    def fails() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.text("step", ["a"], fails)
    assert cache.text("step", ["a"], lambda: "one") == ("one", False)
    assert cache.text("step", ["a"], lambda: "two") == ("one", True)
    assert cache.text("step", ["a", ""], lambda: "two") == ("two", False)


def test_stored_activations_are_real_data():
    config = UnitConfig(width=8, elements=256)
    channels = stimulus.activations(config, 6)
    assert channels.x.shape == (6, 256)
    assert len({tuple(row) for row in channels.x}) == 6
    assert (channels.x.std(1) > 8).all()
    assert (np.abs(channels.g).max(1) > 16).all()
