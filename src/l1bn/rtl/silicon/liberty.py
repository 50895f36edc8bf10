"""Liberty files to cell libraries: cells, pins and tables."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from l1bn.rtl.silicon.liberty_syntax import Group, LibertyError, parse
from l1bn.rtl.silicon.library import (
    Arc,
    Cell,
    Energy,
    Library,
    Pin,
    Sequential,
    Table,
    with_conditions,
)

DEFAULT_LIBERTY = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")
"""The default library, from the package qflow-tech-osu018."""
_ROLES = ("clock", "enable", "test", "out")


def read_text(path: Path) -> str:
    """Liberty text of a .lib or .lib.gz file.

    Raises:
        LibertyError: If the file is missing, with what to install or pass.
    """
    if not path.exists():
        raise LibertyError(
            f"no library at {path}; pass --liberty PATH, or install the default one: "
            "apt-get install qflow-tech-osu018"
        )
    return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()


def load(text: str) -> Library:
    """Build the library from Liberty text.

    Cells that cannot be read are left out, and listed with the reason.

    Raises:
        LibertyError: If the text is no library, or is not a table-lookup model.
    """
    top = parse(text)
    units = _Units(top)
    templates = {
        g.arguments[0]: g
        for kind in ("lu_table_template", "power_lut_template")
        for g in top.all(kind)
    }
    cells: dict[str, Cell] = {}
    left_out: dict[str, str] = {}
    for group in top.all("cell"):
        name = group.arguments[0]
        try:
            cells[name] = _usable(_cell(group, units, templates))
        except (LibertyError, ValueError, KeyError, IndexError) as error:
            left_out[name] = str(error) if isinstance(error, LibertyError) else f"reads {error!r}"
    return with_conditions(Library(top.arguments[0], units.voltage, cells, left_out))


def _usable(cell: Cell) -> Cell:
    """The cell, if timing, power and simulation can use it."""
    if not cell.outputs:
        raise LibertyError("no output pin")
    for pin in cell.outputs:
        if not pin.function:
            raise LibertyError(f"pin {pin.name}: no function")
    if cell.clock_gate:
        for role in ("clock", "enable", "out"):
            cell.pin_for(role)
    elif cell.sequential is not None:
        for name, value in (("clock", cell.sequential.clock), ("data", cell.sequential.data)):
            if not value:
                raise LibertyError(f"{cell.sequential.kind}: no {name}")
    else:
        _check_functions(cell)
    return cell


def _check_functions(cell: Cell) -> None:
    known = {p.name for p in cell.inputs}
    for pin in cell.outputs:
        strange = sorted(set(re.findall(r"[A-Za-z_]\w*", pin.function)) - known)
        if strange:
            raise LibertyError(f"pin {pin.name}: its function has {strange[0]}, no input")


class _Units:
    """Factors from the library's units to ns, pF, pJ and W."""

    def __init__(self, top: Group) -> None:
        a = top.attributes
        if a.get("delay_model", "table_lookup") != "table_lookup":
            raise LibertyError(f"delay_model: expected table_lookup, got {a['delay_model']}")
        scale = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}
        time = re.match(r"([\d.]+)([a-z]?)s", a.get("time_unit", "1ns"))
        assert time is not None
        self.time = float(time[1]) * scale[time[2]] / 1e-9
        size, unit = a.get("capacitive_load_unit", "1 , pf").lower().replace(" ", "").split(",")
        self.capacitance = float(size) * scale[unit[0]] / 1e-12
        leak = re.match(r"([\d.]+)([a-z]?)W", a.get("leakage_power_unit", "1nW"))
        assert leak is not None
        self.leakage = float(leak[1]) * scale[leak[2]]
        self.voltage = float(a.get("nom_voltage", "1"))
        conditions = top.first("operating_conditions")
        if conditions is not None and "voltage" in conditions.attributes:
            self.voltage = float(conditions.attributes["voltage"])
        # Energy is in units of capacitance × voltage².
        self.energy = self.capacitance


def _numbers(text: str) -> list[float]:
    return [float(v) for v in text.replace(",", " ").split()]


def _table(
    group: Group | None, templates: dict[str, Group], value: float, slew: float, load: float
) -> Table | None:
    """A table scaled to our units, with slews along rows and loads along columns."""
    if group is None:
        return None
    template = templates.get(group.arguments[0]) if group.arguments else None
    axes = []
    for number in (1, 2):
        text = group.attributes.get(f"index_{number}")
        if text is None and template is not None:
            text = template.attributes.get(f"index_{number}")
        name = "" if template is None else template.attributes.get(f"variable_{number}", "")
        if text is not None:
            axes.append((name, _numbers(text)))
    if "values" not in group.attributes:
        raise LibertyError(f"{group.kind}: expected values, got none")
    numbers = [v * value for v in _numbers(group.attributes["values"])]
    if not axes or len(numbers) == 1:
        return Table((0.0,), (0.0,), ((numbers[0],),))
    is_load = ["capacitance" in name for name, _ in axes]
    if len(axes) == 1:
        axis = axes[0][1]
        if is_load[0]:
            return Table((0.0,), tuple(v * load for v in axis), (tuple(numbers),))
        return Table(tuple(v * slew for v in axis), (0.0,), tuple((v,) for v in numbers))
    first, second = axes[0][1], axes[1][1]
    rows = [numbers[i * len(second) : (i + 1) * len(second)] for i in range(len(first))]
    if is_load[0]:
        rows = [list(column) for column in zip(*rows, strict=True)]
        first, second = second, first
    # Of a constraint both axes are slews: data along rows, clock along columns.
    column = load if any(is_load) else slew
    return Table(
        tuple(v * slew for v in first),
        tuple(v * column for v in second),
        tuple(tuple(r) for r in rows),
    )


def _constraint(group: Group | None, templates: dict[str, Group], units: _Units) -> Table | None:
    """A setup table with the data's slew along rows."""
    table = _table(group, templates, units.time, units.time, units.time)
    if table is None or group is None or not group.arguments:
        return table
    template = templates.get(group.arguments[0])
    first = "" if template is None else template.attributes.get("variable_1", "")
    if first.startswith("related") and len(table.loads) > 1:
        columns = tuple(zip(*table.values, strict=True))
        return Table(table.loads, table.slews, columns)
    return table


def _cell(group: Group, units: _Units, templates: dict[str, Group]) -> Cell:
    gate = group.attributes.get("clock_gating_integrated_cell", "")
    if group.first("statetable") is not None and not gate:
        raise LibertyError("a state table, which only clock gates may have")
    if any("three_state" in pin.attributes for pin in group.all("pin")):
        raise LibertyError("a three-state output")
    pins = {}
    for pin in group.all("pin"):
        for name in pin.arguments:
            pins[name] = _pin(name, pin, units, templates)
    # A state without a value says nothing; the others count.
    states = [_float(g, "value") for g in group.all("leakage_power") if "value" in g.attributes]
    listed = "cell_leakage_power" in group.attributes
    mean = sum(states) / len(states) if states else 0.0
    return Cell(
        name=group.arguments[0],
        area=_float(group, "area", 0.0),
        leakage=(_float(group, "cell_leakage_power") if listed else mean) * units.leakage,
        pins=pins,
        sequential=_sequential(group),
        clock_gate=gate,
        dont_use=group.attributes.get("dont_use") == "true",
    )


def _float(group: Group, attribute: str, default: float | None = None) -> float:
    """A number of a group.

    Raises:
        LibertyError: Naming the group and the attribute, if it is none.
    """
    text = group.attributes.get(attribute)
    if text is None and default is not None:
        return default
    try:
        return float(text or "")
    except ValueError:
        name = f"{group.kind} {' '.join(group.arguments)}".strip()
        raise LibertyError(f"{name}: {attribute}: expected a number, got {text!r}") from None


def _sequential(group: Group) -> Sequential | None:
    for kind, clock, data in (("ff", "clocked_on", "next_state"), ("latch", "enable", "data_in")):
        state = group.first(kind)
        if state is not None:
            a = state.attributes
            return Sequential(
                kind=kind,
                state=state.arguments[0],
                complement=(*state.arguments, "")[1],
                clock=a.get(clock, ""),
                data=a.get(data, ""),
                clear=a.get("clear", ""),
                preset=a.get("preset", ""),
            )
    return None


def _pin(name: str, group: Group, units: _Units, templates: dict[str, Group]) -> Pin:
    a = group.attributes
    arcs = tuple(
        _arc(timing, related, units, templates)
        for timing in group.all("timing")
        for related in timing.attributes.get("related_pin", "").split()
    )
    energies = []
    for power in group.all("internal_power"):
        tables = []
        for edge in ("rise_power", "fall_power"):
            source = power.first(edge) or power.first("power")
            tables.append(_table(source, templates, units.energy, units.time, units.capacitance))
        sources = power.attributes.get("related_pin", "").split() or [""]
        energies += [Energy(related, tables[0], tables[1]) for related in sources]
    return Pin(
        name=name,
        direction=a.get("direction", "input"),
        capacitance=_float(group, "capacitance", 0.0) * units.capacitance,
        function=a.get("function", a.get("state_function", "")),
        arcs=arcs,
        energies=tuple(energies),
        role=next((r for r in _ROLES if a.get(f"clock_gate_{r}_pin") == "true"), ""),
    )


def _arc(timing: Group, related: str, units: _Units, templates: dict[str, Group]) -> Arc:
    def pair(rise: str, fall: str) -> tuple[Table | None, Table | None]:
        tables = [
            _table(timing.first(k), templates, units.time, units.time, units.capacitance)
            for k in (rise, fall)
        ]
        return tables[0], tables[1]

    a = timing.attributes
    return Arc(
        related=related,
        sense=a.get("timing_sense", "non_unate"),
        kind=a.get("timing_type", "combinational"),
        delay=pair("cell_rise", "cell_fall"),
        transition=pair("rise_transition", "fall_transition"),
        constraint=(
            _constraint(timing.first("rise_constraint"), templates, units),
            _constraint(timing.first("fall_constraint"), templates, units),
        ),
    )
