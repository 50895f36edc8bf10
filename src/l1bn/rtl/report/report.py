"""What the units cost: measurements as JSON, and as tables in Markdown and HTML."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from l1bn.rtl import tools
from l1bn.rtl.report import plots
from l1bn.rtl.report.comparison import Comparison, by_stimulus
from l1bn.rtl.variants import VARIANTS

Record = dict[str, Any]

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


def compare_parts(parts: Sequence[Record], stimulus: str) -> list[Record]:
    """What each part of L2 needs in multiples of the same part of L1, by library and width."""
    found = {(p["library"], p["width"], p["part"], p["norm"]): p for p in parts}
    result = []
    for (library, width, part, norm), one in found.items():
        two = found.get((library, width, part, "l2"))
        if norm != "l1" or two is None:
            continue
        l1, l2 = one["stimuli"][stimulus], two["stimuli"][stimulus]
        result.append(
            {
                "library": library,
                "width": width,
                "part": part,
                "l1": {**l1, "area": one["area"], "period": one["period"]},
                "l2": {**l2, "area": two["area"], "period": two["period"]},
                "area": two["area"] / one["area"],
                "speed": l2["time_per_element"] / l1["time_per_element"],
                "energy": l2["energy_per_element"] / l1["energy_per_element"],
            }
        )
    return result


def write(records: Sequence[Record], folder: Path, parts: Sequence[Record] = ()) -> list[Path]:
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
            "libraries": {r["library"]: r["conditions"] for r in records},
            "left_out": LEFT_OUT,
        },
        "records": list(records),
        "parts": list(parts),
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


def _tables(records: Sequence[Record], parts: Sequence[Record], folder: Path) -> list[Path]:
    """units.csv and parts.csv: a row per unit, or part, and stimulus."""
    units = [
        {
            "library": r["library"], "width": r["config"]["width"], "variant": r["variant"],
            "stimulus": name, "area": r["area"], "period_ns": r["period"],
            "clocks_per_element": s["clocks_per_element"],
            "time_per_element_ns": s["time_per_element"],
            "energy_per_element_pJ": s["energy_per_element"],
        }
        for r in records for name, s in r["stimuli"].items()
    ]  # fmt: skip
    alone = [
        {
            "library": p["library"], "width": p["width"], "norm": p["norm"], "part": p["part"],
            "stimulus": name, "area": p["area"], "period_ns": p["period"],
            "clocks_per_element": s["clocks_per_element"],
            "time_per_element_ns": s["time_per_element"],
            "energy_per_element_pJ": s["energy_per_element"],
        }
        for p in parts for name, s in p["stimuli"].items()
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


def _render(
    template: str,
    records: Sequence[Record],
    parts: Sequence[Record],
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
        conditions={r["library"]: r["conditions"] for r in records},
    )


def _groups(records: Sequence[Record], stimulus: str) -> list[dict[str, Any]]:
    """Records by library and width, with the like-for-like baseline of each."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record["library"], record["config"]["width"]), []).append(record)
    result = []
    for (library, width), rows in groups.items():
        base = next((r for r in rows if r["variant"] == "l2"), rows[0])
        result.append(
            {
                "library": library,
                "width": width,
                "rows": [{**r, "now": r["stimuli"][stimulus]} for r in rows],
                "base": base["stimuli"][stimulus],
                "blocks": sorted({b for r in rows for b in r["area_by_block"]}),
            }
        )
    return result
