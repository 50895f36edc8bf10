"""Timing diagrams of a unit, from a simulation of it at eight elements per channel."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from amaranth.hdl import Shape
from amaranth.lib import data

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.drawings.trace import integer, read_vcd, sampled
from l1bn.rtl.unit.emit.interface import Interface
from l1bn.rtl.unit.ports import Phase, element_layout, output_layout
from l1bn.rtl.verify.simulate import simulate
from l1bn.rtl.verify.stimulus import gaussian

#: Clocks shown before a pass begins.
BEFORE = 3


@dataclass(frozen=True)
class Signal:
    """A line of a diagram.

    Attributes:
        key: Its name in the trace.
        label: Its name in the diagram.
        shape: Of its value; None for the phase, which is text.
        valid: The signal that says when it means something, or "" for always.
    """

    key: str
    label: str
    shape: Shape | None
    valid: str = ""


def signals(config: UnitConfig, boundary: Interface, phase: Phase) -> list[Signal]:
    """What is shown of a pass: the phase, and both streams with the fields that the pass uses."""
    shown = [Signal("phase", "phase", None)]
    if phase is Phase.NORMALIZE:
        used = {"x", "x_next", "x_ahead"}
    else:
        used = {"g", "g_next", "x_next", "above" if config.norm == "l1" else "x"}
    layouts: dict[str, data.Layout] = {
        "element": element_layout(config),
        "result": output_layout(config),
    }
    for name, layout in layouts.items():
        stream = boundary.streams[name]
        shown += [
            Signal(f"{name}__{end}", getattr(stream, end), Shape.cast(1))
            for end in ("valid", "ready")
        ]
        for field, place in layout:
            if name == "result" or field in used:
                label = f"{name} {field}"
                if field == "last" and stream.last:
                    label = stream.last
                key = rf"\{name}__payload.{field}"
                shown.append(Signal(key, label, Shape.cast(place.shape), f"{name}__valid"))
    return shown


def record(config: UnitConfig) -> dict[str, list[str]]:
    """Every signal of the boundary, clock by clock, with stalls at both ends."""
    small = replace(config, elements=8)
    with tempfile.TemporaryDirectory(prefix="l1bn-") as name:
        trace = Path(name) / "trace.vcd"
        simulate(small, gaussian(small, 3, seed=5), stall=0.2, seed=3, trace=trace)
        return sampled(read_vcd(trace))


def window(samples: dict[str, list[str]], phase: Phase) -> slice:
    """The first pass of a kind that emits results: a little before it, until the last is taken."""
    phases = [text.split("/")[0] for text in samples["phase"]]
    taken = [
        valid == ready == "1"
        for valid, ready in zip(samples["result__valid"], samples["result__ready"], strict=True)
    ]
    first = next(i for i, t in enumerate(taken) if t and phases[i] == phase.name)
    start = max(i for i in range(first) if phases[i] != phase.name) + 1
    last = samples[r"\result__payload.last"]
    end = next(i for i in range(first, len(taken)) if taken[i] and last[i] == "1")
    return slice(max(start - BEFORE, 0), end + 2)


def wave_json(
    config: UnitConfig, boundary: Interface, samples: dict[str, list[str]], phase: Phase
) -> dict[str, list[dict[str, object]]]:
    """A pass as WaveJSON, the language of WaveDrom."""
    part = window(samples, phase)
    clocks = len(samples["phase"][part])
    lines: list[dict[str, object]] = [{"name": boundary.clock, "wave": "p".ljust(clocks, ".")}]
    for signal in signals(config, boundary, phase):
        values = samples[signal.key][part]
        if signal.valid:
            valid = samples[signal.valid][part]
            values = [v if means == "1" else "x" for v, means in zip(values, valid, strict=True)]
        lines.append({"name": signal.label, **_wave(signal, values)})
    return {"signal": lines}


def _wave(signal: Signal, values: list[str]) -> dict[str, object]:
    marks = list(values)
    if signal.shape is None or signal.shape.width > 1:
        marks = ["x" if value == "x" else "=" for value in values]
    same = [False, *(a == b for a, b in itertools.pairwise(values))]
    wave = "".join("." if s else mark for mark, s in zip(marks, same, strict=True))
    texts = [value for value, _ in itertools.groupby(values) if value != "x"]
    return {"wave": wave, "data": [_text(signal, text) for text in texts]}


def _text(signal: Signal, value: str) -> str:
    if signal.shape is None:
        return value.split("/")[0].lower()
    return str(integer(value, signal.shape.width, signed=signal.shape.signed))
