"""Static timing from the library's tables: the critical path, and every delay for simulation.

Two simplifications, stated in every report: wires have no capacitance or resistance (there is no
placement), and the clock tree is ideal (it arrives everywhere at zero, through clock gates too).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from l1bn.rtl.silicon.library import Arc, Cell, Library, Pin
from l1bn.rtl.silicon.netlist import Instance, Netlist, NetlistError

RISE, FALL = 0, 1
_EDGE_KINDS = ("rising_edge", "falling_edge")
_SETUP_KINDS = ("setup_rising", "setup_falling")


@dataclass(frozen=True)
class Hop:
    """One step of a path: instance, cell, pin and arrival [ns]."""

    instance: str
    cell: str
    net: str
    arrival: float


@dataclass
class Timing:
    """Result of a timing analysis.

    Attributes:
        period: Smallest clock period [ns].
        path: The critical path, start to end.
        endpoint: What the path ends at.
        load: Capacitance on each net [pF].
        slew: Rising and falling slew on each net [ns].
        arrivals: Latest rising and falling arrival on each net [ns].
        delays: For each instance, (input pin, output pin) to the rising and falling delay [ns].
    """

    period: float
    path: list[Hop]
    endpoint: str
    load: dict[str, float]
    slew: dict[str, tuple[float, float]]
    arrivals: dict[str, tuple[float, float]]
    delays: dict[str, dict[tuple[str, str], tuple[float, float]]]


@dataclass
class _State:
    arrival: dict[str, list[float]] = field(default_factory=dict)
    slew: dict[str, list[float]] = field(default_factory=dict)
    cause: dict[tuple[str, int], tuple[str, int, Instance]] = field(default_factory=dict)


def analyse(netlist: Netlist, library: Library, clock: str = "clk") -> Timing:
    """Propagate slews and arrivals through the netlist and find the smallest period."""
    netlist.check(library)
    load = loads(netlist, library)
    clocks = clock_nets(netlist, library, clock)
    state, at = _State(), library.conditions
    for bits in netlist.inputs.values():
        for net in bits:
            state.arrival[net], state.slew[net] = [0.0, 0.0], [at.input_slew, at.input_slew]
    for net in clocks:
        state.arrival[net], state.slew[net] = [0.0, 0.0], [at.clock_slew, at.clock_slew]
    for constant in ("1'b0", "1'b1"):
        # Never a transition: arrives long before anything else, so it never decides a path.
        state.arrival[constant], state.slew[constant] = [-1e9, -1e9], [0.0, 0.0]
    delays: dict[str, dict[tuple[str, str], tuple[float, float]]] = {}
    for instance in order(netlist, library):
        delays[instance.name] = _propagate(instance, library.cells[instance.kind], state, load)
    period, net, edge, endpoint = _worst(netlist, library, state, clocks)
    slews = {n: (s[0], s[1]) for n, s in state.slew.items()}
    arrivals = {n: (a[0], a[1]) for n, a in state.arrival.items() if n not in clocks}
    path = _trace(state, net, edge)
    return Timing(
        period=period,
        path=path,
        endpoint=endpoint,
        load=load,
        slew=slews,
        arrivals=arrivals,
        delays=delays,
    )


def loads(netlist: Netlist, library: Library) -> dict[str, float]:
    """Pin capacitance on each net, and the load of primary outputs [pF]."""
    load: dict[str, float] = defaultdict(float)
    for instance in netlist.instances:
        pins = library.cells[instance.kind].pins
        for pin, net in instance.pins.items():
            if pins[pin].direction == "input":
                load[net] += pins[pin].capacitance
            else:
                load[net] += 0.0
    for bits in netlist.outputs.values():
        for net in bits:
            load[net] += library.conditions.output_load
    return dict(load)


def clock_nets(netlist: Netlist, library: Library, clock: str) -> set[str]:
    """The clock and every net derived from it.

    A net belongs to the clock network when it is driven by a clock gate cell, or by a
    combinational cell with an input on the clock network.
    """
    found = set(netlist.inputs.get(clock, []))
    sinks = netlist.sinks()
    pending = list(found)
    while pending:
        for instance, pin in sinks[pending.pop()]:
            cell = library.cells[instance.kind]
            del pin
            if cell.sequential is not None and not cell.clock_gate:
                continue
            for out in cell.outputs:
                net = instance.pins.get(out.name)
                if net is not None and net not in found:
                    found.add(net)
                    pending.append(net)
    return found


def _is_edge_triggered(cell: Cell) -> bool:
    return cell.sequential is not None or bool(cell.clock_gate)


def order(netlist: Netlist, library: Library) -> list[Instance]:
    """Instances in topological order: sequential cells first, then by their inputs.

    Raises:
        NetlistError: If combinational cells form a loop.
    """
    is_first = {i.name: _is_edge_triggered(library.cells[i.kind]) for i in netlist.instances}
    first = [i for i in netlist.instances if is_first[i.name]]
    rest = [i for i in netlist.instances if not is_first[i.name]]
    driver = {
        i.pins[out.name]: i
        for i in rest
        for out in library.cells[i.kind].outputs
        if out.name in i.pins
    }
    waiting: dict[str, int] = {}
    followers: dict[str, list[Instance]] = defaultdict(list)
    for instance in rest:
        nets = [instance.pins.get(p.name, "") for p in library.cells[instance.kind].inputs]
        sources = [driver[net] for net in nets if net in driver]
        waiting[instance.name] = len(sources)
        for source in sources:
            followers[source.name].append(instance)
    ordered = [i for i in rest if waiting[i.name] == 0]
    for instance in ordered:
        for follower in followers[instance.name]:
            waiting[follower.name] -= 1
            if waiting[follower.name] == 0:
                ordered.append(follower)
    if len(ordered) != len(rest):
        raise NetlistError(f"{netlist.name}: expected no combinational loop, found one")
    return first + ordered


def _input_edges(arc: Arc, out_edge: int) -> tuple[int, ...]:
    if arc.kind in _EDGE_KINDS:
        return (RISE,) if arc.kind == "rising_edge" else (FALL,)
    if arc.sense == "positive_unate":
        return (out_edge,)
    if arc.sense == "negative_unate":
        return (1 - out_edge,)
    return (RISE, FALL)


def _propagate(
    instance: Instance, cell: Cell, state: _State, load: dict[str, float]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Arrivals and slews of an instance's outputs; its delays."""
    delays: dict[tuple[str, str], list[float]] = {}
    for out in cell.outputs:
        net = instance.pins.get(out.name)
        if net is None:
            continue
        is_clock = net in state.arrival
        arrival, slew = [-1e9, -1e9], [0.0, 0.0]
        for arc in out.arcs:
            source = instance.pins.get(arc.related)
            if source is None or arc.delay == (None, None) or source not in state.arrival:
                continue
            for edge in (RISE, FALL):
                delay_table, slew_table = arc.delay[edge], arc.transition[edge]
                if delay_table is None or slew_table is None:
                    continue
                for start in _input_edges(arc, edge):
                    delay = delay_table(state.slew[source][start], load[net])
                    pair = delays.setdefault((arc.related, out.name), [0.0, 0.0])
                    pair[edge] = max(pair[edge], delay)
                    slew[edge] = max(slew[edge], slew_table(state.slew[source][start], load[net]))
                    reached = state.arrival[source][start] + delay
                    if reached > arrival[edge]:
                        arrival[edge] = reached
                        state.cause[net, edge] = (source, start, instance)
        if not is_clock:
            state.arrival[net], state.slew[net] = arrival, slew
    return {pins: (d[0], d[1]) for pins, d in delays.items()}


def _setup(pin: Pin, edge: int, slew: float, clock_slew: float) -> float | None:
    """Worst setup time of a data pin [ns], or None where it has none."""
    times = [
        table(slew, clock_slew)
        for arc in pin.arcs
        if arc.kind in _SETUP_KINDS and (table := arc.constraint[edge]) is not None
    ]
    return max(times) if times else None


def _worst(
    netlist: Netlist, library: Library, state: _State, clocks: set[str]
) -> tuple[float, str, int, str]:
    """Smallest period, and the net, edge and name of the endpoint that sets it."""
    ends = []
    for instance in netlist.instances:
        cell = library.cells[instance.kind]
        if _is_edge_triggered(cell):
            for pin in cell.inputs:
                net = instance.pins.get(pin.name, "")
                if net not in clocks and net in state.arrival:
                    name = f"{instance.name}.{pin.name}"
                    ends += _register_ends(name, pin, net, state, library.conditions.clock_slew)
    for name, bits in netlist.outputs.items():
        for net in bits:
            if net in state.arrival:
                ends += [(state.arrival[net][edge], net, edge, name) for edge in (RISE, FALL)]
    return max(ends, default=(0.0, "", RISE, ""))


def _register_ends(
    name: str, pin: Pin, net: str, state: _State, clock_slew: float
) -> list[tuple[float, str, int, str]]:
    ends = []
    for edge in (RISE, FALL):
        setup = _setup(pin, edge, state.slew[net][edge], clock_slew)
        if setup is not None:
            ends.append((state.arrival[net][edge] + setup, net, edge, name))
    return ends


def _trace(state: _State, net: str, edge: int) -> list[Hop]:
    path: list[Hop] = []
    while (net, edge) in state.cause:
        source, start, instance = state.cause[net, edge]
        path.append(Hop(instance.name, instance.kind, net, state.arrival[net][edge]))
        net, edge = source, start
        if len(path) > 10_000:
            break
    path.append(Hop("", "", net, state.arrival.get(net, [0.0, 0.0])[edge]))
    return path[::-1]
