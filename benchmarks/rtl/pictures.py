"""Draw the pictures of docs/silicon/unit.md: the block diagram, and a waveform from a simulation.

    python -m benchmarks.rtl.pictures

writes docs/pictures/unit.svg (needs graphviz) and docs/pictures/waveform.svg.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.drawings.trace import read_vcd
from l1bn.rtl.verify.simulate import simulate
from l1bn.rtl.verify.stimulus import gaussian

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"

DIAGRAM = """
digraph unit {
  rankdir=TB; nodesep=0.3; ranksep=0.35; bgcolor="white";
  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11, fillcolor="#eef3fa"];
  edge [fontname="Helvetica", fontsize=9, color="#555555"];
  element [label="element stream\\nx, g, bit", shape=cds, margin="0.2,0.08"];
  command [label="command stream\\nγ, β, operation", shape=cds, margin="0.2,0.08"];
  result [label="result stream\\ny or dx, bit x ≥ μ, last", shape=cds, margin="0.2,0.08"];
  scalars [label="snapshot, dγ, dβ", shape=cds, margin="0.2,0.08"];
  subgraph cluster_path { label="element path: one element per clock"; fontname="Helvetica";
    fontsize=11; style=rounded; color="#9db7d5";
    operands [label="operand\\nregisters a, b"]; product [label="product\\na · b"];
    sum [label="sum\\n+ offset or + itself"]; shift [label="shift\\nsaturate"];
    operands -> product -> sum -> shift; }
  subgraph cluster_once { label="once per channel"; fontname="Helvetica"; fontsize=11;
    style=rounded; color="#d5b79d"; node [fillcolor="#fbf3ea"];
    scalar [label="scalar multiplier\\n2 bits per clock"];
    divider [label="divider\\n1 bit per clock"];
    registers [label="coefficient γ/σ, shift,\\ntwo offsets"]; control [label="state machine"]; }
  statistic [label="statistic\\nS = Σx,  P = Σx over x ≥ μ,\\nn = their number;  Σg"];
  element -> operands; element -> statistic; shift -> result;
  statistic -> scalar [label="S, P, n, Σg"]; sum -> scalar [label="Σg·x"];
  scalar -> divider [dir=both]; scalar -> registers; divider -> registers;
  registers -> operands [label="coefficient"]; registers -> sum [label="offset by bit"];
  command -> control; control -> scalar [style=dotted]; registers -> scalars;
}
"""

#: Signals of the waveform: name in the trace, label, kind.
SIGNALS = (
    ("clk", "clk", "bit"),
    ("phase", "phase", "word"),
    ("element__valid", "element.valid", "bit"),
    ("element__ready", "element.ready", "bit"),
    (r"\element__payload.x", "element.x", "word"),
    ("result__valid", "result.valid", "bit"),
    ("result__ready", "result.ready", "bit"),
    (r"\result__payload.value", "result.value", "word"),
    (r"\result__payload.last", "result.last", "bit"),
)


def number(value: str) -> str:
    """A two's-complement word as text."""
    if not set(value) <= {"0", "1"}:
        return value.split("/")[0]
    integer = int(value, 2)
    return str(integer - (1 << len(value)) if value[0] == "1" and len(value) == 8 else integer)


def waveform() -> None:
    config = UnitConfig(width=8, elements=8)
    with tempfile.TemporaryDirectory() as name:
        trace = Path(name) / "trace.vcd"
        simulate(config, gaussian(config, 1, seed=5), stall=0.25, seed=3, trace=trace)
        changes = read_vcd(trace)
    rises = sorted({t for t, v in changes["clk"] if v == "1"})
    period = rises[1] - rises[0]
    valid = [t for t, v in changes["result__valid"] if v == "1"]
    start, end = valid[0] - 9 * period, valid[0] + 15 * period
    figure, axis = plt.subplots(figsize=(12, 4.6), layout="constrained")
    for row, (key, label, kind) in enumerate(SIGNALS):
        base = -1.6 * row
        # Of several changes at one time the last counts; equal neighbours are one segment.
        latest = dict(changes[key])
        points = [(t, v) for t, v in sorted(latest.items()) if t <= end]
        points = [p for i, p in enumerate(points) if i == 0 or points[i - 1][1] != p[1]]
        segments = list(zip(points, [*[t for t, _ in points[1:]], end], strict=True))
        axis.text(start - 0.3 * period, base + 0.4, label, ha="right", va="center", fontsize=9)
        for (left, value), right in segments:
            left, right = max(left, start), min(right, end)
            if right <= left:
                continue
            if kind == "bit":
                level = base + (0.9 if value == "1" else 0.0)
                axis.plot([left, right], [level, level], color="#1f4e79", lw=1.2)
                if right < end:
                    axis.plot([right, right], [base, base + 0.9], color="#1f4e79", lw=1.2)
            else:
                text = value.lower() if key == "phase" else number(value)
                axis.fill_between(
                    [left, right],
                    base,
                    base + 0.9,
                    facecolor="#eef3fa",
                    edgecolor="#1f4e79",
                    lw=0.8,
                )
                if right - left > 0.8 * period:
                    axis.text((left + right) / 2, base + 0.42, text, ha="center", va="center",
                              fontsize=7.5, clip_on=True)  # fmt: skip
    axis.set_xlim(start, end)
    axis.set_axis_off()
    axis.set_title(
        "Normalizing a channel of 8 elements: a result waits, unchanged, until it is taken",
        fontsize=10,
    )
    with plt.rc_context({"svg.hashsalt": "l1bn"}):
        figure.savefig(FOLDER / "waveform.svg", metadata={"Date": None})
        figure.savefig("/tmp/waveform.png", dpi=110)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    waveform()
    for kind, target in (("svg", FOLDER / "unit.svg"), ("png", Path("/tmp/unit.png"))):
        subprocess.run(
            ["dot", f"-T{kind}", "-o", str(target)], input=DIAGRAM, text=True, check=True
        )
    print(f"wrote {FOLDER}/unit.svg and {FOLDER}/waveform.svg")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # none, but --help
    main()
