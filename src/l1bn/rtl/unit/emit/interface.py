"""The boundary of a unit, described once: Verilog, manifest, C header and datasheet follow it.

The layouts of ``l1bn.rtl.unit.ports`` are the only place that knows where a field lies. The wrapper
of ``l1bn.rtl.unit.axi`` is wired by them, and everything that is written about a unit reads this
description of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict

from amaranth.hdl import Shape, ShapeLike, signed
from amaranth.lib import data
from amaranth.lib.wiring import In

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.axi_lite import bus_ports
from l1bn.rtl.unit.ports import (
    Phase,
    axi_command_layout,
    axi_element_layout,
    axi_result_layout,
    command_layout,
    context_layout,
    element_layout,
    operations,
    output_layout,
)
from l1bn.rtl.unit.registers import Bits, Register, address_bits, register_map


@dataclass(frozen=True)
class Field:
    """A number inside a word.

    Attributes:
        name: Its name.
        offset: Lowest bit.
        width: Bits of the value.
        lane: Bits that it fills: a signed value is sign-extended to its lane.
        signed: Two's complement.
    """

    name: str
    offset: int
    width: int
    lane: int
    signed: bool


class Port(TypedDict):
    """A port as the manifest lists it."""

    name: str
    direction: str
    width: int


@dataclass(frozen=True)
class Word:
    """A port that carries fields, or one number.

    Attributes:
        port: Name of the port.
        direction: "input" or "output".
        width: Bits.
        fields: What lies in it, from bit 0 up.
    """

    port: str
    direction: str
    width: int
    fields: tuple[Field, ...]

    def pack(self, values: dict[str, int]) -> int:
        """The word that holds the named values; fields without one are 0."""
        word = 0
        for field in self.fields:
            value = values.get(field.name, 0)
            word |= (int(value) & ((1 << field.lane) - 1)) << field.offset
        return word

    def unpack(self, word: int) -> dict[str, int]:
        """The values in a word."""
        values = {}
        for field in self.fields:
            value = word >> field.offset & ((1 << field.width) - 1)
            negative = field.signed and value >> (field.width - 1)
            values[field.name] = value - (1 << field.width) if negative else value
        return values


@dataclass(frozen=True)
class Stream:
    """Words with a handshake.

    Attributes:
        word: The payload.
        valid, ready: Names of the handshake's ports.
        last: Port that marks the last word of a pass, or "" where the payload or nothing does.
    """

    word: Word
    valid: str
    ready: str
    last: str


@dataclass(frozen=True)
class Interface:
    """Everything at the boundary.

    Attributes:
        module: Name of the top module.
        clock: Clock port; everything is sampled at its rising edge.
        reset: Reset port, synchronous.
        reset_level: Level at which the reset acts.
        streams: "command", "element" (inputs) and "result" (output).
        words: "snapshot" and "restore", "dgamma", "dbeta" and "phase", and the flags.
        operations: Codes of the commands.
        phases: Codes of ``phase``.
        registers: Address map, where commands and scalars are registers: there is no command
            stream then, and ``words`` has ``irq`` only.
        bus: Ports of the bus that reaches them: name, direction, width [bit].
    """

    module: str
    clock: str
    reset: str
    reset_level: int
    streams: dict[str, Stream]
    words: dict[str, Word]
    operations: dict[str, int]
    phases: dict[str, int]
    registers: tuple[Register, ...] = ()
    bus: tuple[tuple[str, str, int], ...] = ()

    def ports(self) -> list[Port]:
        """Name, direction and width [bit] of every port."""
        listed = [_port(self.clock, "input"), _port(self.reset, "input")]
        listed += [_port(*port) for port in self.bus]
        for stream in self.streams.values():
            inward = stream.word.direction == "input"
            ahead, back = ("input", "output") if inward else ("output", "input")
            listed.append(_port(stream.word.port, ahead, stream.word.width))
            listed += [_port(stream.valid, ahead), _port(stream.ready, back)]
            listed += [_port(stream.last, ahead)] if stream.last else []
        listed += [_port(w.port, w.direction, w.width) for w in self.words.values()]
        return listed

    def record(self) -> dict[str, object]:
        """The description as JSON has it."""
        return asdict(self)

    @staticmethod
    def load(record: dict[str, Any]) -> Interface:
        """The description that a manifest holds under "interface"."""
        streams = {
            name: Stream(**{**entry, "word": _load_word(entry["word"])})
            for name, entry in record["streams"].items()
        }
        words = {name: _load_word(entry) for name, entry in record["words"].items()}
        registers = tuple(
            Register(**{**entry, "fields": tuple(Bits(**b) for b in entry["fields"])})
            for entry in record["registers"]
        )
        bus = tuple((str(n), str(d), int(w)) for n, d, w in record["bus"])
        described = {"streams": streams, "words": words, "registers": registers, "bus": bus}
        return Interface(**{**record, **described})


def _load_word(entry: dict[str, Any]) -> Word:
    return Word(**{**entry, "fields": tuple(Field(**f) for f in entry["fields"])})


def _port(name: str, direction: str, width: int = 1) -> Port:
    return {"name": name, "direction": direction, "width": width}


def describe(config: UnitConfig, module: str, *, axi: bool) -> Interface:
    """The boundary of a unit, bare or behind AXI4-Stream channels."""
    streams = _axi_streams(config) if axi else _bare_streams(config)
    context = context_layout(config)
    words = {
        "snapshot": _word("snapshot", "output", context),
        "restore": _word("restore", "input", context),
        "dgamma": _number("dgamma", signed(config.quotient + 1)),
        "dbeta": _number("dbeta", signed(config.need.sum)),
        "phase": _number("phase", Phase),
        "command_error": _number("command_error", 1),
    }
    if axi:
        words["framing_error"] = _number("framing_error", 1)
    return Interface(
        module=module,
        clock="aclk" if axi else "clk",
        reset="aresetn" if axi else "rst",
        reset_level=0 if axi else 1,
        streams=streams,
        words=words,
        operations={o.name: o.value for o in operations(config)},
        phases={p.name: p.value for p in Phase},
    )


def describe_registers(config: UnitConfig, module: str) -> Interface:
    """The boundary of a unit with registers behind AXI4-Lite."""
    whole = describe(config, module, axi=True)
    bus = tuple(
        (name, "input" if member.flow == In else "output", Shape.cast(member.shape).width)
        for name, member in bus_ports(address_bits(config)).items()
    )
    return replace(
        whole,
        streams={name: whole.streams[name] for name in ("element", "result")},
        words={"irq": _number("irq", 1)},
        registers=register_map(config),
        bus=bus,
    )


def _bare_streams(config: UnitConfig) -> dict[str, Stream]:
    layouts = {
        "command": ("input", command_layout(config)),
        "element": ("input", element_layout(config)),
        "result": ("output", output_layout(config)),
    }
    return {
        name: Stream(
            _word(f"{name}__payload", direction, layout), f"{name}__valid", f"{name}__ready", ""
        )
        for name, (direction, layout) in layouts.items()
    }


def _axi_streams(config: UnitConfig) -> dict[str, Stream]:
    layouts = {
        "command": ("s_axis_cmd", "input", axi_command_layout(config), False),
        "element": ("s_axis", "input", axi_element_layout(config), True),
        "result": ("m_axis", "output", axi_result_layout(config), True),
    }
    return {
        name: Stream(
            _word(f"{prefix}_tdata", direction, layout), f"{prefix}_tvalid", f"{prefix}_tready",
            f"{prefix}_tlast" if last else "",
        )
        for name, (prefix, direction, layout, last) in layouts.items()
    }  # fmt: skip


def _word(port: str, direction: str, layout: data.Layout) -> Word:
    """The fields of a layout; a lane ends where the next field begins, or at a byte's end."""
    entries = sorted(((n, layout[n]) for n, _ in layout), key=lambda entry: entry[1].offset)
    ends = [field.offset for _, field in entries[1:]] + [layout.size]
    fields = []
    for (name, field), end in zip(entries, ends, strict=True):
        shape = Shape.cast(field.shape)
        lane = end - field.offset if shape.signed else shape.width
        fields.append(Field(name, field.offset, shape.width, lane, shape.signed))
    return Word(port, direction, layout.size, tuple(fields))


def _number(port: str, shape: ShapeLike) -> Word:
    cast = Shape.cast(shape)
    return Word(
        port, "output", cast.width, (Field(port, 0, cast.width, cast.width, cast.signed),)
    )  # fmt: skip
