"""SVG of a unit's blocks and passes, drawn by schemdraw."""

from __future__ import annotations

from pathlib import Path

import schemdraw
from schemdraw import elements, flow, logic

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.drawings.blocks import ARROWS, blocks, once
from l1bn.rtl.drawings.timing import record, wave_json
from l1bn.rtl.unit.emit.interface import Interface
from l1bn.rtl.unit.ports import Phase

_FILL = {"port": "#f2f2f2", "element": "#e3edf8", "channel": "#fbf0e2"}


def write(config: UnitConfig, boundary: Interface, folder: Path) -> dict[str, str]:
    """Write the pictures; return their titles and the names of their files."""
    samples = record(config)
    name = boundary.module
    pictures = {
        "Blocks": (f"{name}_blocks.svg", block_diagram(config, boundary)),
        "A pass that normalizes": (
            f"{name}_forward.svg", timing(wave_json(config, boundary, samples, Phase.NORMALIZE)),
        ),
        "A pass of the gradient": (
            f"{name}_backward.svg", timing(wave_json(config, boundary, samples, Phase.GRADIENT)),
        ),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for file, picture in pictures.values():
        (folder / file).write_bytes(picture)
    return {title: file for title, (file, _) in pictures.items()}


def block_diagram(config: UnitConfig, boundary: Interface) -> bytes:
    """What a unit is made of."""
    with _drawing() as drawing:
        place, (wide, high) = once(config)
        frame = flow.RoundBox(w=wide, h=high).linestyle("--").color("#999999")
        drawing += frame.anchor("center").at(place)
        note = elements.Label().at((place[0] + wide / 2 - 0.2, place[1] - high / 2 - 0.4))
        drawing += note.label("once per channel", halign="right", color="#777777")
        for points in ARROWS:
            line = elements.Wire("-") if len(points) == 2 else elements.Wire("|-")
            drawing += line.at(points[0]).to(points[-1]).color("#555555")
            drawing += elements.Arrowhead().at(points[-1]).theta(_angle(points)).color("#555555")
        for block in blocks(config, boundary):
            shape = flow.Box if block.kind == "port" else flow.RoundBox
            box = shape(w=block.size[0], h=block.size[1]).fill(_FILL[block.kind])
            drawing += box.anchor("center").at(block.place).label(block.text)
    return _svg(drawing)


def _angle(points: tuple[tuple[float, float], ...]) -> float:
    (x0, y0), (x1, y1) = points[-2:]
    if x1 != x0:
        return 0.0 if x1 > x0 else 180.0
    return 90.0 if y1 > y0 else -90.0


def timing(wave: dict[str, list[dict[str, object]]]) -> bytes:
    """A timing diagram of WaveJSON."""
    with _drawing() as drawing:
        drawing += logic.TimingDiagram(wave, yheight=0.5, ygap=0.25, fontsize=11, datafontsize=9)
    return _svg(drawing)


def _drawing() -> schemdraw.Drawing:
    drawing = schemdraw.Drawing(show=False, canvas="svg", fontsize=11, lw=1.2, margin=0.3)
    drawing.config(bgcolor="white")  # black lines, also on a dark page
    return drawing


def _svg(drawing: schemdraw.Drawing) -> bytes:
    picture = drawing.get_imagedata("svg")
    assert isinstance(picture, bytes)
    return picture
