"""What the units cost: measurements as JSON, and as tables in Markdown and HTML."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2

from l1bn import tools
from l1bn.rtl.report import plots
from l1bn.rtl.report.comparison import Comparison, PartRatio, by_stimulus, compare_parts
from l1bn.rtl.report.records import PartRecord, UnitCost, UnitRecord
from l1bn.rtl.variants import VARIANTS

#: Names of the passes, in the order of a channel.
PHASES = {
    "STATISTICS": "sums",
    "DEVIATION": "deviation",
    "NORMALIZE": "normalize",
    "REDUCE": "reduce",
    "GRADIENT": "gradient",
    "SCALARS": "scalars",
}

LEFT_OUT = (
    "Wires: there is no placement, so nets carry pin capacitance only.",
    "The clock tree: ideal, without delay; clock pins, clock gates and their loads are counted.",
    "Memory: the traffic of x, g, y, dx and the stored context is outside. Words read per element: "
    "L1 3 + 2 + 1 and a bit, L2 in two passes 3 + 2 + 2, L2 in one pass 2 + 2 + 2.",
    "Process corners: the typical corner of each library.",
)


def environment() -> dict[str, str]:
    """Programs that the figures depend on."""
    import amaranth

    return {
        "yosys": tools.version("yosys"),
        "iverilog": tools.version("iverilog"),
        "amaranth": amaranth.__version__,
        "python": platform.python_version(),
    }


def write(
    records: Sequence[UnitRecord], folder: Path, parts: Sequence[PartRecord] = ()
) -> list[Path]:
    """Write results.json, the tables, report.md, report.html and the plots; return their paths.

    Args:
        records: Units, from ``l1bn.rtl.report.flow.measure``.
        folder: Where to write.
        parts: Parts, from ``l1bn.rtl.report.part_flow.measure``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    comparisons = by_stimulus(records)
    names = list(comparisons)
    content = {
        "environment": environment(),
        "conditions": {
            "libraries": {r.library: asdict(r.conditions) for r in records},
            "left_out": LEFT_OUT,
        },
        "records": [r.entry() for r in records],
        "parts": [p.entry() for p in parts],
        "comparisons": {name: [asdict(c) for c in rows] for name, rows in comparisons.items()},
    }
    json_path = folder / "results.json"
    json_path.write_text(json.dumps(content, indent=1) + "\n")
    ratios = compare_parts(parts, names[0])
    pictures = plots.write(records, ratios, names[0], folder)
    written = [json_path, *_tables(records, parts, folder)]
    for template in ("report.md", "report.html"):
        path = folder / template
        path.write_text(_render(f"{template}.jinja", records, ratios, names, comparisons, pictures))
        written.append(path)
    return [*written, *pictures]


def _tables(records: Sequence[UnitRecord], parts: Sequence[PartRecord], folder: Path) -> list[Path]:
    """units.csv and parts.csv: a row per unit, or part, and stimulus."""
    units = [
        {"library": r.library, "width": r.config.width, "variant": r.variant, **_row(r, name)}
        for r in records for name in r.stimuli
    ]  # fmt: skip
    alone = [
        {"library": p.library, "width": p.width, "norm": p.norm, "part": p.part, **_row(p, name)}
        for p in parts for name in p.stimuli
    ]  # fmt: skip
    written = []
    for file, rows in (("units.csv", units), ("parts.csv", alone)):
        if not rows:
            continue
        path = folder / file
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow(
                    {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
                )
        written.append(path)
    return written


def _row(record: UnitRecord | PartRecord, stimulus: str) -> dict[str, str | float]:
    cost = record.stimuli[stimulus]
    return {
        "stimulus": stimulus,
        "area": record.area,
        "period_ns": record.period,
        "clocks_per_element": cost.clocks_per_element,
        "time_per_element_ns": cost.time_per_element,
        "energy_per_element_pJ": cost.energy_per_element,
    }


def _render(
    template: str,
    records: Sequence[UnitRecord],
    parts: Sequence[PartRatio],
    names: Sequence[str],
    comparisons: dict[str, list[Comparison]],
    pictures: Iterable[Path],
) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment_ = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        autoescape=template.endswith("html.jinja"), keep_trailing_newline=True,
    )  # fmt: skip
    return environment_.get_template(template).render(
        groups=_groups(records, names[0]),
        parts=parts,
        comparisons=comparisons,
        names=names,
        pictures=[p.name for p in pictures],
        inline={p.name: p.read_text() for p in pictures if p.suffix == ".svg"},
        captions=plots.CAPTIONS,
        labels={v.key: v.label for v in VARIANTS},
        phases=PHASES,
        left_out=LEFT_OUT,
        environment=environment(),
        conditions={r.library: r.conditions for r in records},
    )


@dataclass(frozen=True)
class _Group:
    """The units of a library and width, with the like-for-like baseline's costs."""

    library: str
    width: int
    rows: list[UnitRecord]
    stimulus: str

    @property
    def base(self) -> UnitCost:
        return self.now(next((r for r in self.rows if r.variant == "l2"), self.rows[0]))

    @property
    def blocks(self) -> list[str]:
        return sorted({b for r in self.rows for b in r.area_by_block})

    def now(self, row: UnitRecord) -> UnitCost:
        return row.stimuli[self.stimulus]


def _groups(records: Sequence[UnitRecord], stimulus: str) -> list[_Group]:
    groups: dict[tuple[str, int], list[UnitRecord]] = {}
    for record in records:
        groups.setdefault((record.library, record.config.width), []).append(record)
    return [_Group(library, width, rows, stimulus) for (library, width), rows in groups.items()]
