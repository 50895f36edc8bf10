"""Tables of docs/ about the hardware, from benchmarks/results/rtl/results.json.

Libraries and widths that it lacks come from the report before it, and say so.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import median
from typing import Any

from l1bn.rtl.variants import VARIANTS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "rtl" / "results.json"
EARLIER = RESULTS.parent / "2026-11-23" / "results.json"
#: Without and with a command that sets the number of elements.
COUNTED = [RESULTS.parent / "counted" / name / RESULTS.name for name in ("without", "with")]
#: The overlapped units, L2BN with a squarer among them.
SQUARER = RESULTS.parent / "squarer" / RESULTS.name
LIBRARIES = {
    "osu018_stdcells": "OSU 0.18 µm",
    "sky130_fd_sc_hd__tt_025C_1v80": "sky130",
    "sg13g2_stdcell_typ_1p20V_25C": "IHP sg13g2",
    "NangateOpenCellLibrary": "NanGate45",
    "gf180mcu_fd_sc_mcu9t5v0__tt_025C_5v00": "GF180MCU 9-track",
    "asap7sc7p5t": "ASAP7",
}
ALONE = "Like for like: one multiplier, two passes, one channel at a time"
LIKE = "Like for like: one multiplier, two passes, overlapped"
FRONTIER = "Frontier: two multipliers, overlapped, against the best L2 (one pass)"
ONE = "One multiplier, overlapped, against the best L2 (two multipliers, one pass)"
STIMULI = ("gaussian", "activations")
Comparison = dict[str, Any]


def comparisons(stimulus: str) -> dict[tuple[str, str], dict[str, Comparison]]:
    """Return the comparisons of each library and width, by their question."""
    now, before = (_read(path, stimulus) for path in (RESULTS, EARLIER))
    found = {(library, str(width)): entry for (library, width), entry in now.items()}
    for (library, width), entry in before.items():
        if (library, width) not in now:
            found[library, f"{width}, earlier"] = entry
    return dict(sorted(found.items(), key=lambda item: list(LIBRARIES).index(item[0][0])))


def _read(path: Path, stimulus: str) -> dict[tuple[str, int], dict[str, Comparison]]:
    found: dict[tuple[str, int], dict[str, Comparison]] = {}
    for entry in json.loads(path.read_text())["comparisons"][stimulus]:
        found.setdefault((entry["library"], entry["width"]), {})[entry["question"]] = entry
    return found


def cells(entry: Comparison | None, *names: str) -> list[str]:
    """Return speed, energy and area as text; a dash where nothing was measured."""
    if entry is None:
        return ["–"] * len(names)
    return [
        f"{entry[n]:.2f}×" if n == "speed" else f"{100 * entry[n]:.1f} %".replace("-", "−")
        for n in names
    ]


def lines(stimulus: str, *columns: tuple[str, tuple[str, ...]]) -> list[list[str]]:
    """Return a row for each library and width."""
    return [
        [LIBRARIES[library], width]
        + [c for question, names in columns for c in cells(found.get(question), *names)]
        for (library, width), found in comparisons(stimulus).items()
    ]


ALL = ("speed", "energy_saved", "area_saved")
FIRST = ALL[:2]


def like(stimulus: str) -> tuple[list[str], list[list[str]]]:
    """One multiplier and two passes on both sides."""
    head = ["Library", "Bits", "Overlapped: speed", "energy saved", "area saved"]
    head += ["One channel at a time: speed", "energy saved"]
    return head, lines(stimulus, (LIKE, ALL), (ALONE, FIRST))


def frontier(stimulus: str) -> tuple[list[str], list[list[str]]]:
    """Against the best L2BN."""
    head = ["Library", "Bits", "L1 on two multipliers: speed", "energy saved", "area saved"]
    head += ["L1 on one multiplier: speed", "energy saved", "area saved"]
    return head, lines(stimulus, (FRONTIER, ALL), (ONE, ALL))


def recorded(_: str) -> tuple[list[str], list[list[str]]]:
    """The energy saved on Gaussian data and on data recorded in training."""
    head = ["Library", "Bits", "Like for like, overlapped: Gaussian", "recorded"]
    head += ["Against the best L2BN: Gaussian", "recorded"]
    energy = ("energy_saved",)
    gaussian, real = (lines(stimulus, (LIKE, energy), (FRONTIER, energy)) for stimulus in STIMULI)
    return head, [[*a[:2], a[2], b[2], a[3], b[3]] for a, b in zip(gaussian, real, strict=True)]


def short(stimulus: str) -> tuple[list[str], list[list[str]]]:
    """Both in a few columns."""
    head = ["library", "bits", "one multiplier, two passes: speed", "energy saved"]
    head += ["best L2BN: speed", "energy saved"]
    return head, lines(stimulus, (LIKE, FIRST), (FRONTIER, FIRST))


def counted(stimulus: str) -> tuple[list[str], list[list[str]]]:
    """What it costs that a command sets the number of elements."""
    head = ["Unit", "cells", "area", "clocks per element", "ns", "pJ"]
    without, counting = (
        {record["variant"]: record for record in json.loads(path.read_text())["records"]}
        for path in COUNTED
    )
    rows = []
    for variant in VARIANTS:
        if variant.key not in without:
            continue
        pair = without[variant.key], counting[variant.key]
        measured = [record["stimuli"][stimulus] for record in pair]
        rows.append([
            variant.label,
            " → ".join(str(record["cells"]) for record in pair),
            f"{pair[1]['area'] / pair[0]['area'] - 1:+.0%}".replace("%", " %"),
            " → ".join(f"{m['clocks_per_element']:.2f}" for m in measured),
            " → ".join(f"{m['time_per_element']:.1f}" for m in measured),
            " → ".join(f"{m['energy_per_element']:.0f}" for m in measured),
        ])  # fmt: skip
    return head, rows


def squarer(stimulus: str) -> tuple[list[str], list[list[str]]]:
    """The overlapped units, and how L1BN on one and on two multipliers compares with each of L2."""
    head = ["Unit", "area", "clocks per element", "ns", "pJ"]
    head += ["L1 on one multiplier: speed", "energy saved", "on two: speed", "energy saved"]
    records = {r["variant"]: r for r in json.loads(SQUARER.read_text())["records"]}
    ours = [records[key]["stimuli"][stimulus] for key in ("l1-overlap", "l1-overlap-two-mult")]
    rows = []
    for variant in VARIANTS:
        if variant.key not in records:
            continue
        record, cost = records[variant.key], records[variant.key]["stimuli"][stimulus]
        time, energy = cost["time_per_element"], cost["energy_per_element"]
        ratios = ["–"] * 4
        if record["config"]["norm"] == "l2":
            ratios = []
            for one in ours:
                saved = 1 - one["energy_per_element"] / energy
                ratios += [f"{time / one['time_per_element']:.2f}×", f"{100 * saved:.1f} %"]
        clocks = cost["clocks_per_element"]
        figures = [f"{record['area']:.0f}", f"{clocks:.2f}", f"{time:.1f}", f"{energy:.0f}"]
        rows.append([variant.label, *figures, *ratios])
    return head, rows


def luck(_: str) -> tuple[list[str], list[list[str]]]:
    """Time per element and area of each unit over the tries of `luck.py`, and L1's lead."""
    head = ["Unit", "tries", "area", "ns per element: best", "median", "worst"]
    head += ["L1 on one multiplier: best against best", "worst to best luck"]
    path = sorted(ROOT.glob("results/????-??-??-rtl-luck/luck.csv"))[-1]
    with path.open() as stream:
        tries = list(csv.DictReader(stream))
    times = {key: sorted(float(t["ns_per_element"]) for t in tries if t["variant"] == key)
             for key in dict.fromkeys(t["variant"] for t in tries)}  # fmt: skip
    ours, rows = times["l1-overlap"], []
    for variant in VARIANTS:
        if variant.key not in times:
            continue
        found = times[variant.key]
        areas = [float(t["area"]) for t in tries if t["variant"] == variant.key]
        lead = ["–", "–"]
        if variant.key.startswith("l2"):
            least, most = found[0] / ours[-1], found[-1] / ours[0]
            lead = [f"{found[0] / ours[0]:.2f}×", f"{least:.2f}× to {most:.2f}×"]
        spread = [f"{t:.2f}" for t in (found[0], median(found), found[-1])]
        area = f"{min(areas):.0f} to {max(areas):.0f}"
        rows.append([variant.label, str(len(found)), area, *spread, *lead])
    return head, rows


def fpga(_: str) -> tuple[list[str], list[list[str]]]:
    """L1 beside L2 on FPGAs, over the seeds of the placer."""
    head = ["Device", "Question", "Speed of the medians", "worst to best seed"]
    head += ["LUTs saved", "moved pins saved"]
    folder = sorted(ROOT.glob("results/????-??-??-rtl-fpga"))[-1]
    rows = []
    for path in sorted(folder.glob("*/fpga.json")):
        for entry in json.loads(path.read_text())["comparisons"]["gaussian"]:
            speed = entry["speed"]
            saved = [
                f"{100 * entry[k]:.1f} %".replace("-", "−") for k in ("luts_saved", "pins_saved")
            ]
            span = f"{speed['low']:.2f}× to {speed['high']:.2f}×"
            rows.append(
                [entry["target"], entry["question"], f"{speed['median']:.2f}×", span, *saved]
            )
    return head, rows


TABLES = {
    "fpga": fpga,
    "luck": luck,
    "squarer": squarer,
    "like": like,
    "frontier": frontier,
    "recorded": recorded,
    "short": short,
    "counted": counted,
}
