"""Units on an FPGA as JSON, CSV, Markdown and HTML: every file, or none."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import jinja2

from l1bn import tools
from l1bn.rtl.fpga.family import Family
from l1bn.rtl.fpga.records import FpgaComparison, FpgaRecord, compare
from l1bn.rtl.variants import VARIANTS

TEMPLATES = Path(__file__).parent / "templates"


def write(records: Sequence[FpgaRecord], family: Family, folder: Path) -> list[Path]:
    """Write fpga.json, fpga.csv, fpga.md and fpga.html; return their paths.

    Args:
        records: Units and parts, all on the same stimuli.
        family: What they were measured on.
        folder: Where to write.
    """
    stimuli = list(records[0].stimuli)
    comparisons = {name: compare(records, name) for name in stimuli}
    environment = {
        "yosys": tools.version("yosys"),
        family.router(): tools.version(family.router()),
        "iverilog": tools.version("iverilog"),
    }
    content = {
        "environment": environment,
        "records": [asdict(r) for r in records],
        "comparisons": {name: [asdict(c) for c in rows] for name, rows in comparisons.items()},
    }
    texts = {"fpga.json": json.dumps(content, indent=1) + "\n", "fpga.csv": _table(records)}
    for name in ("fpga.md", "fpga.html"):
        texts[name] = _render(f"{name}.jinja", records, comparisons, environment)
    return _write_all(texts, folder)


def _write_all(texts: Mapping[str, str], folder: Path) -> list[Path]:
    """Nothing is replaced before all is on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fpga-") as name:
        for file, text in texts.items():
            (Path(name) / file).write_text(text)
        return [(Path(name) / file).replace(folder / file) for file in texts]


def _table(records: Sequence[FpgaRecord]) -> str:
    """A row per unit or part, device and stimulus."""
    rows = []
    for record in records:
        for stimulus, work in record.stimuli.items():
            clock, time = record.clock, record.time(stimulus)
            rows.append({
                "target": record.target, "width": record.width, "kind": record.kind,
                "name": record.name, "norm": record.norm, "stimulus": stimulus,
                **asdict(record.resources),
                "seeds": len(record.mhz),
                "mhz_median": clock.median, "mhz_min": clock.low, "mhz_max": clock.high,
                "clocks_per_element": work.clocks,
                "ns_per_element_median": time.median, "ns_per_element_min": time.low,
                "ns_per_element_max": time.high, "moved_pins_per_element": work.moved_pins,
            })  # fmt: skip
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return stream.getvalue()


def _render(
    template: str,
    records: Sequence[FpgaRecord],
    comparisons: Mapping[str, Sequence[FpgaComparison]],
    environment: Mapping[str, str],
) -> str:
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, autoescape=template.endswith("html.jinja"),
        keep_trailing_newline=True,
    )  # fmt: skip
    places = dict.fromkeys((r.target, r.width) for r in records)
    groups = [
        (target, width, [r for r in records if (r.target, r.width) == (target, width)])
        for target, width in places
    ]
    return jinja.get_template(template).render(
        groups=groups,
        comparisons=comparisons,
        stimulus=next(iter(comparisons)),
        labels={v.key: v.label for v in VARIANTS},
        environment=environment,
        seeds=len(records[0].mhz),
    )
