"""Liberty cell libraries: a parser, and the tables that timing and power are computed from.

Units after loading: time [ns], capacitance [pF], energy [pJ], leakage [W], area as in the library.
"""

from __future__ import annotations

import bisect
import gzip
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from l1bn.errors import UserError

_TOKEN = re.compile(r'"[^"]*"|[A-Za-z0-9_.+\-*!&|^\'\[\]]+|[{}();:,=]', re.S)
_ROLES = ("clock", "enable", "test", "out")
_COMMENT = re.compile(r"/\*.*?\*/", re.S)


class LibertyError(UserError):
    """A library that cannot be read."""


@dataclass
class Group:
    """A Liberty group: name(arguments) { attributes and groups }."""

    kind: str
    arguments: list[str]
    attributes: dict[str, str] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def all(self, kind: str) -> Iterator[Group]:
        """The groups of one kind inside this one."""
        return (g for g in self.groups if g.kind == kind)

    def first(self, kind: str) -> Group | None:
        """The first group of a kind, or None."""
        return next(self.all(kind), None)


def parse(text: str) -> Group:
    """Parse Liberty text into its top group.

    Raises:
        LibertyError: If braces do not match or no library group is found.
    """
    tokens = _TOKEN.findall(_COMMENT.sub(" ", text).replace("\\\n", " "))
    top = Group("file", [])
    stack, i, count = [top], 0, len(tokens)
    while i < count:
        token = tokens[i]
        if token == "}":
            stack.pop()
            i += 1
        elif token == ";":
            i += 1
        elif i + 1 < count and tokens[i + 1] == ":":
            end = _end_of_value(tokens, i + 2)
            stack[-1].attributes[token] = " ".join(tokens[i + 2 : end]).strip('"')
            i = end
        elif i + 1 < count and tokens[i + 1] == "(":
            i = _group_or_call(tokens, i, stack)
        else:
            i += 1
        if not stack:
            raise LibertyError("expected balanced braces, got a closing one too many")
    if not top.groups or top.groups[0].kind != "library":
        raise LibertyError("expected a library group; is this a Liberty (.lib) file?")
    return top.groups[0]


def _end_of_value(tokens: list[str], start: int) -> int:
    """Index after a value: its semicolon or, where that is missing, the next statement."""
    end, count = start, len(tokens)
    while end < count and tokens[end] not in ";}":
        if end > start and end + 1 < count and tokens[end + 1] in (":", "("):
            break
        end += 1
    return end


def _group_or_call(tokens: list[str], i: int, stack: list[Group]) -> int:
    end = tokens.index(")", i)
    arguments = [t.strip('"') for t in tokens[i + 2 : end] if t != ","]
    if end + 1 < len(tokens) and tokens[end + 1] == "{":
        group = Group(tokens[i], arguments)
        stack[-1].groups.append(group)
        stack.append(group)
        return end + 2
    stack[-1].attributes[tokens[i]] = " , ".join(arguments)
    return end + 1


@dataclass(frozen=True)
class Table:
    """A lookup table over input slew [ns] and output load [pF], or over one of them, or constant.

    Values are interpolated bilinearly and extrapolated along the last segment.
    """

    slews: tuple[float, ...]
    loads: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def __call__(self, slew: float, load: float) -> float:
        """The value at a slew [ns] and a load [pF]."""
        i, u = _locate(self.slews, slew)
        j, v = _locate(self.loads, load)
        rows = self.values
        if len(self.slews) == 1:
            row = rows[0]
            return row[0] if len(row) == 1 else row[j] + v * (row[j + 1] - row[j])
        if len(self.loads) == 1:
            return rows[i][0] + u * (rows[i + 1][0] - rows[i][0])
        low = rows[i][j] + v * (rows[i][j + 1] - rows[i][j])
        high = rows[i + 1][j] + v * (rows[i + 1][j + 1] - rows[i + 1][j])
        return low + u * (high - low)


def _locate(axis: tuple[float, ...], value: float) -> tuple[int, float]:
    if len(axis) == 1:
        return 0, 0.0
    i = min(max(bisect.bisect_right(axis, value) - 1, 0), len(axis) - 2)
    return i, (value - axis[i]) / (axis[i + 1] - axis[i])


@dataclass(frozen=True)
class Arc:
    """A timing arc to a pin.

    Attributes:
        related: Pin it starts from.
        sense: positive_unate, negative_unate or non_unate.
        kind: timing_type; "combinational", "rising_edge", "setup_rising", ...
        delay, transition: Tables for a rising and a falling output [ns].
        constraint: Setup tables for rising and falling data [ns]: slew of data, slew of clock.
    """

    related: str
    sense: str
    kind: str
    delay: tuple[Table | None, Table | None] = (None, None)
    transition: tuple[Table | None, Table | None] = (None, None)
    constraint: tuple[Table | None, Table | None] = (None, None)


@dataclass(frozen=True)
class Energy:
    """Internal energy of a pin's transition [pJ]; ``related`` is "" for an input pin itself."""

    related: str
    rise: Table | None
    fall: Table | None


@dataclass(frozen=True)
class Pin:
    """A pin: direction, input capacitance [pF], function, arcs and energies.

    ``role`` is what a clock gate uses it for: "clock", "enable", "test", "out", or "".
    """

    name: str
    direction: str
    capacitance: float
    function: str
    arcs: tuple[Arc, ...]
    energies: tuple[Energy, ...]
    role: str = ""


@dataclass(frozen=True)
class Sequential:
    """State of a cell: kind "ff" or "latch", its variables, and its expressions."""

    kind: str
    state: str
    complement: str
    clock: str
    data: str
    clear: str
    preset: str


@dataclass(frozen=True)
class Cell:
    """A library cell.

    Attributes:
        clock_gate: Kind of clock gate, such as ``latch_posedge``, or "".
        dont_use: The library asks synthesis not to use it.
    """

    name: str
    area: float
    leakage: float
    pins: dict[str, Pin]
    sequential: Sequential | None
    clock_gate: str
    dont_use: bool = False

    def pin_for(self, role: str) -> Pin:
        """The pin that a clock gate uses for something.

        Raises:
            LibertyError: If no pin says so.
        """
        found = next((p for p in self.pins.values() if p.role == role), None)
        if found is None:
            raise LibertyError(f"{self.name}: expected a pin with clock_gate_{role}_pin, got none")
        return found

    @property
    def inverts(self) -> bool:
        """Whether it is an inverter."""
        if len(self.inputs) != 1 or len(self.outputs) != 1 or self.sequential is not None:
            return False
        name = self.inputs[0].name
        return re.sub(r"[() ]", "", self.outputs[0].function) in (f"!{name}", f"{name}'")

    @property
    def inputs(self) -> list[Pin]:
        """Input pins."""
        return [p for p in self.pins.values() if p.direction == "input"]

    @property
    def outputs(self) -> list[Pin]:
        """Output pins."""
        return [p for p in self.pins.values() if p.direction == "output"]


@dataclass(frozen=True)
class Conditions:
    """What timing and power assume at the boundary: slews [ns] and load [pF].

    Attributes:
        clock_slew: Slew of the clock.
        input_slew: Slew of primary inputs.
        output_load: Load of each primary output.
    """

    clock_slew: float = 0.06
    input_slew: float = 0.1
    output_load: float = 0.02


@dataclass(frozen=True)
class Library:
    """A cell library; units in the module's head.

    Attributes:
        name: Its name; of several files, what their names have in common.
        voltage: Supply [V].
        cells: The cells that can be used.
        left_out: The others, and why.
        conditions: What is assumed at the boundary of a netlist.
    """

    name: str
    voltage: float
    cells: dict[str, Cell]
    left_out: dict[str, str] = field(default_factory=dict)
    conditions: Conditions = Conditions()

    def inverters(self) -> list[Cell]:
        """The inverters, the smallest first.

        Raises:
            LibertyError: If there is none.
        """
        found = [c for c in self.cells.values() if c.inverts]
        if not found:
            raise LibertyError(
                f"{self.name}: expected a cell with the function of an inverter, found none"
                + self.excuse()
            )
        return sorted(found, key=lambda c: (c.area, c.name))

    def excuse(self) -> str:
        """What was left out, for a message."""
        some = [f"{name} ({why})" for name, why in list(self.left_out.items())[:3]]
        return f"; left out {len(self.left_out)}: {', '.join(some)}" if some else ""


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
    return _with_conditions(Library(top.arguments[0], units.voltage, cells, left_out))


def merge(libraries: Sequence[Library]) -> Library:
    """One library of several files.

    Raises:
        LibertyError: If they are of different supplies, or define a cell twice.
    """
    first = libraries[0]
    if len(libraries) == 1:
        return first
    cells: dict[str, Cell] = {}
    left_out: dict[str, str] = {}
    for library in libraries:
        if library.voltage != first.voltage:
            raise LibertyError(
                f"{library.name}: expected {first.voltage} V as {first.name} has, got "
                f"{library.voltage} V; files of one library must be of one corner"
            )
        twice = sorted(set(cells) & set(library.cells))
        if twice:
            raise LibertyError(f"{library.name}: {twice[0]} is in another file, too")
        cells |= library.cells
        left_out |= library.left_out
    names = (library.name for library in libraries)
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    name = "".join(letters[0] for letters in same).strip("_-. ")
    return _with_conditions(Library(name or first.name, first.voltage, cells, left_out))


def is_whole(library: Library) -> bool:
    """Whether a file is a library by itself: an inverter, a gate, a flip-flop."""
    cells = library.cells.values()
    return (
        any(c.inverts for c in cells)
        and any(c.sequential is None and len(c.inputs) > 1 for c in cells)
        and any(c.sequential is not None and c.sequential.kind == "ff" for c in cells)
    )


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


def _with_conditions(library: Library) -> Library:
    """Slews and load in keeping with a fast library: not above what its inverters are about.

    The upper ends are what an older library sees: a slew of 0.06 ns, a load of 0.02 pF.
    """
    if not any(c.inverts for c in library.cells.values()):
        return library
    inverter, most = library.inverters()[0], Conditions()
    capacitance = inverter.inputs[0].capacitance
    slew = most.input_slew
    for _ in range(4):  # inverters in a row, each with four to drive
        tables = [t for t in inverter.outputs[0].arcs[0].transition if t is not None]
        slew = sum(t(slew, 4 * capacitance) for t in tables) / len(tables)
    return replace(
        library,
        conditions=Conditions(
            min(most.clock_slew, 2 * slew),
            min(most.input_slew, 4 * slew),
            min(most.output_load, 12 * capacitance),
        ),
    )


def fanout_of_four(inverter: Cell) -> float:
    """Mean delay of an inverter that drives four of its kind, at a slew of 0.1 ns [ns]."""
    load = 4 * inverter.inputs[0].capacitance
    delays = [t(0.1, load) for t in inverter.outputs[0].arcs[0].delay if t is not None]
    return sum(delays) / len(delays)


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
                kind, state.arguments[0], (*state.arguments, "")[1], a.get(clock, ""),
                a.get(data, ""),
                a.get("clear", ""), a.get("preset", ""),
            )  # fmt: skip
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
