"""The emitted Verilog as its manifest and its C header describe it, driven in Icarus."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from l1bn import tools
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit import emit
from l1bn.rtl.unit.emit.interface import Interface
from l1bn.rtl.verify import stimulus, testbench

needs_iverilog = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="needs apt-get install iverilog"
)
UNITS = [
    {},
    {"passes": 1},
    {"overlap": True},
    {"overlap": True, "multipliers": 2},
    {"norm": "l2"},
    {"norm": "l2", "overlap": True, "passes": 1, "multipliers": 2},
    {"norm": "l2", "overlap": True, "passes": 1, "squarer": True},
    {"counted": True},
]


@functools.cache
def verilog(config, axi):
    return emit.verilog_text(config, axi=axi)


def written(folder, axi, **options):
    """What a user has: a unit's Verilog and its manifest."""
    config = UnitConfig(**options)
    with pytest.MonkeyPatch.context() as patch:
        text = verilog(config, axi)  # the slow part, once per unit
        patch.setattr(emit, "verilog_text", lambda *_, **__: text)
        paths = emit.write(config, folder, axi=axi)
    return paths.source.read_text(), json.loads(paths.manifest.read_text())


@needs_iverilog
@pytest.mark.parametrize("axi", [False, True], ids=["bare", "axi"])
@pytest.mark.parametrize("options", UNITS, ids=str)
def test_the_manifest_alone_drives_the_verilog(options, axi, tmp_path):
    """Ports, handshakes, fields and codes come from the JSON; results must be the model's."""
    source, manifest = written(tmp_path, axi, width=6, elements=16, **options)
    parameters = dict(manifest["parameters"])
    assert parameters.pop("axi") is axi
    assert parameters.pop("registers") is False
    config = UnitConfig(**parameters)
    boundary = Interface.load(manifest["interface"])
    n = 11 if config.counted else None
    for channels in (stimulus.extremes(config, count=n), stimulus.gaussian(config, 3, count=n)):
        run = testbench.run(config, [source], channels, stall=0.3, boundary=boundary)
        assert run.clocks > len(channels) * 2 * channels.x.shape[1]


@needs_iverilog
@pytest.mark.parametrize("word", ["command", "element", "result"])
def test_a_wrong_offset_in_the_manifest_is_caught(word, tmp_path):
    source, manifest = written(tmp_path, True, width=6, elements=16)
    fields = manifest["interface"]["streams"][word]["word"]["fields"]
    moved = next(f for f in fields if f["name"] in ("operation", "g", "above"))
    moved["offset"] += 1
    config = UnitConfig(width=6, elements=16)
    boundary = Interface.load(manifest["interface"])
    with pytest.raises(testbench.SimulationError):
        testbench.run(config, [source], stimulus.gaussian(config, 1), boundary=boundary)


@pytest.mark.parametrize("axi", [False, True], ids=["bare", "axi"])
def test_manifest_lists_the_ports_of_the_verilog(axi, tmp_path):
    source, manifest = written(tmp_path, axi, width=8, elements=64, overlap=True)
    top = source[source.rindex(f"module {manifest['module']}(") :]
    top = top[: top.index("endmodule")]
    found = {
        (name, way, int(high or 0) + 1)
        for way, high, name in re.findall(r"(input|output) (?:\[(\d+):0\] )?(\w+);", top)
    }
    assert found == {(p["name"], p["direction"], p["width"]) for p in manifest["ports"]}


@pytest.mark.parametrize("options", UNITS[::3], ids=str)
def test_no_wire_bears_the_name_of_what_has_none(options):
    """Amaranth calls a signal ``signal`` where several are assigned by one statement."""
    text = emit.verilog_text(UnitConfig(width=6, elements=16, **options), registers=True)
    assert not re.findall(r"\b(?:wire|reg) (?:\[.*\] )?(signal(?:_\d+)?)\b", text)


def test_axi_command_is_a_word_of_whole_bytes(tmp_path):
    _, manifest = written(tmp_path, True, width=8, elements=64, overlap=True)
    offsets = {f["name"]: f["offset"] for f in manifest["layouts"]["command"]}
    assert offsets == {"gamma": 0, "beta": 8, "operation": 16, "fill": 18}
    assert manifest["interface"]["streams"]["command"]["word"]["width"] == 24


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_c_header_packs_as_the_manifest(tmp_path):
    _, manifest = written(tmp_path, True, width=5, elements=16, overlap=True)
    name = manifest["module"]
    words = {k: v["word"] for k, v in manifest["interface"]["streams"].items()}
    lines = [f'#include "{name}.h"', "#include <stdio.h>", "int main(void) {"]
    wanted = []
    for stream, word in words.items():
        stem = f"{name}_{stream}".upper()
        lines.append(f"  uint8_t {stream}[{stem}_BYTES] = {{0}};")
        values = {}
        for number, field in enumerate(word["fields"]):
            value = (-1 - number) if field["signed"] else 1
            values[field["name"]] = value
            macro = f"{stem}_{field['name']}".upper()
            lines.append(f"  l1bn_put({stream}, {macro}_OFFSET, {macro}_LANE, {value});")
            lines.append(
                f'  printf("%lld ", (long long)l1bn_get({stream}, {macro}_OFFSET, {macro}_WIDTH, '
                f"{macro}_SIGNED));"
            )
        lines.append(f'  for (unsigned i = 0; i < {stem}_BYTES; i++) printf("%u ", {stream}[i]);')
        packed = Interface.load(manifest["interface"]).streams[stream].word.pack(values)
        wanted += [*values.values(), *packed.to_bytes(-(-word["width"] // 8), "little")]
    (tmp_path / "main.c").write_text("\n".join([*lines, "  return 0;", "}", ""]))
    compile_ = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "main.c", "-o", "it"]
    subprocess.run(compile_, cwd=tmp_path, check=True)
    done = subprocess.run(["./it"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert [int(v) for v in done.stdout.split()] == wanted


def test_datasheet_has_every_port_and_field(tmp_path):
    written(tmp_path, True, width=8, elements=16)
    (sheet,) = tmp_path.glob("*.md")
    manifest = json.loads(next(tmp_path.glob("*.json")).read_text())
    text = sheet.read_text()
    for port in manifest["ports"]:
        assert f"| `{port['name']}` | {port['direction']} | {port['width']} |" in text
    assert "| command | operation | 16 | 2 | 2 | no |" in text


_AFTER_RESET = """\
`timescale 1ns/1ps
module bench;
  reg clock = 0, reset = {on};
  always #5 clock = ~clock;
  {declarations}
  {module} dut ({connections});
  initial begin
    {start}
    repeat (3) @(posedge clock);
    #1 reset = {off};
    repeat (20) @(posedge clock);
    #1 {body}
    $finish;
  end
endmodule
"""


def bench(boundary, folder, source, *, start="", body=""):
    """Run a few lines of Verilog around a unit; return what they printed."""
    ports = boundary.ports()
    wires = {boundary.clock: "clock", boundary.reset: "reset"}
    declarations = []
    for port in ports:
        if port["name"] not in wires:
            kind = "reg" if port["direction"] == "input" else "wire"
            declarations.append(f"{kind} [{port['width'] - 1}:0] {port['name']};")
    connections = [f".{p['name']}({wires.get(p['name'], p['name'])})" for p in ports]
    (folder / "unit.v").write_text(source)
    (folder / "bench.v").write_text(
        _AFTER_RESET.format(
            on=boundary.reset_level, off=1 - boundary.reset_level, module=boundary.module,
            declarations="\n  ".join(declarations), connections=", ".join(connections),
            start=start, body=body,
        )
    )  # fmt: skip
    # As SystemVerilog, registers have their first values before any block waits for a change.
    tools.run(["iverilog", "-g2012", "-s", "bench", "-o", "bench", "bench.v", "unit.v"], folder)
    return tools.run(["vvp", "-n", "bench"], folder)[0]


def quiet(boundary):
    """Every input that a user may leave alone, at 0."""
    inputs = [p["name"] for p in boundary.ports() if p["direction"] == "input"][2:]
    return " ".join(f"{name} = 0;" for name in inputs)


@needs_iverilog
@pytest.mark.parametrize("axi", [False, True], ids=["bare", "axi"])
@pytest.mark.parametrize("options", UNITS, ids=str)
def test_handshakes_and_phase_are_known_after_reset(options, axi, tmp_path):
    """Twenty clocks without a command: payloads may be anything, control may not."""
    source, manifest = written(tmp_path, axi, width=6, elements=16, **options)
    boundary = Interface.load(manifest["interface"])
    streams = boundary.streams
    control = [
        streams["element"].ready, streams["command"].ready, streams["result"].valid, "phase",
        "command_error",
    ]  # fmt: skip
    show = " ".join(f'$display("{name} %b", {name});' for name in control)
    output = bench(boundary, tmp_path, source, start=quiet(boundary), body=show)
    shown = dict(line.split() for line in output.splitlines() if " " in line)
    for name in control:
        assert set(shown[name]) <= {"0"}, (name, shown[name])


@needs_iverilog
@pytest.mark.parametrize("axi", [False, True], ids=["bare", "axi"])
def test_an_unknown_operation_is_taken_and_flagged(axi, tmp_path):
    source, manifest = written(tmp_path, axi, width=6, elements=16)
    boundary = Interface.load(manifest["interface"])
    command = boundary.streams["command"]
    word = command.word.pack({"operation": 3})
    body = (
        f"{command.word.port} = {word}; {command.valid} = 1; #1 "
        f'$display("taken %b error %b", {command.ready}, command_error); @(posedge clock); #1 '
        f'{command.valid} = 0; #1 $display("then %b phase %d", command_error, phase);'
    )
    output = bench(boundary, tmp_path, source, start=quiet(boundary), body=body)
    assert "taken 1 error 0" in output
    assert "then 1 phase 0" in output


@needs_iverilog
def test_a_misplaced_last_is_flagged(tmp_path):
    source, manifest = written(tmp_path, True, width=6, elements=16)
    boundary = Interface.load(manifest["interface"])
    forward = boundary.streams["command"].word.pack({"operation": 0})
    body = (
        f"s_axis_cmd_tdata = {forward}; s_axis_cmd_tvalid = 1; s_axis_tvalid = 1; "
        'repeat (2) @(posedge clock); #1 $display("before %b", framing_error); '
        's_axis_tlast = 1; repeat (2) @(posedge clock); #1 $display("after %b", framing_error);'
    )
    output = bench(boundary, tmp_path, source, start=quiet(boundary), body=body)
    assert "before 0" in output
    assert "after 1" in output
