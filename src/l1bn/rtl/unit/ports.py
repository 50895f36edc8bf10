"""What crosses the boundary of a unit: phases, commands, and the layouts of its streams."""

from __future__ import annotations

from enum import IntEnum

from amaranth.hdl import ShapeLike, signed, unsigned
from amaranth.lib import data

from l1bn.rtl.config import UnitConfig


class Phase(IntEnum):
    """What the unit expects next on ``element``, N times."""

    SCALARS = 0
    STATISTICS = 1
    DEVIATION = 2
    NORMALIZE = 3
    REDUCE = 4
    GRADIENT = 5


class Operation(IntEnum):
    """Commands."""

    FORWARD = 0
    BACKWARD = 1
    RESTORE = 2
    COUNT = 3


def operations(config: UnitConfig) -> tuple[Operation, ...]:
    """The commands that a unit has: COUNT where a command sets N."""
    return tuple(o for o in Operation if o is not Operation.COUNT or config.counted)


def element_layout(config: UnitConfig) -> data.StructLayout:
    """Input element: x, g, and for L1 the bit ``above`` that the forward pass emitted.

    Where channels overlap, elements of the channels that follow travel beside it: ``x_next`` of
    the next one, ``x_ahead`` of the one whose sum comes first, ``g_next``.
    """
    word = signed(config.width)
    fields: dict[str, ShapeLike] = {"x": word, "g": word}
    if config.norm == "l1":
        fields["above"] = unsigned(1)
    if config.overlap and (config.norm == "l1" or config.passes == 1):
        fields["x_next"] = word
    if config.holds_total:
        fields["x_ahead"] = word
    if config.overlaps_gradient:
        fields["g_next"] = word
    return data.StructLayout(fields)


def output_layout(config: UnitConfig) -> data.StructLayout:
    """Output element: y or dx, the last-of-channel mark, and for L1 the bit x ≥ μ."""
    fields: dict[str, ShapeLike] = {"value": signed(config.width), "last": unsigned(1)}
    if config.norm == "l1":
        fields["above"] = unsigned(1)
    return data.StructLayout(fields)


def command_layout(config: UnitConfig) -> data.StructLayout:
    """Command: what to do, γ and β, and for one-pass L1 the previous batch's threshold.

    Where channels overlap, ``fill`` marks a step that has no channel to emit yet. ``count`` is N of
    the channels that follow, for the command COUNT.
    """
    fields: dict[str, ShapeLike] = {
        "operation": Operation,
        "gamma": signed(config.width),
        "beta": signed(config.width),
    }
    if config.norm == "l1" and config.passes == 1:
        fields["guess"] = signed(config.width)
    if config.counted:
        fields["count"] = unsigned(config.log2_elements + 1)
    if config.overlap:
        fields["fill"] = unsigned(1)
    return data.StructLayout(fields)


def axi_lane(bits: int) -> int:
    """Width of a byte-aligned AXI lane that holds so many bits [bit]."""
    return -(-bits // 8) * 8


def axi_element_layout(config: UnitConfig) -> data.Layout:
    """``element_layout``, each field in whole bytes."""
    return _byte_lanes(element_layout(config))


def axi_result_layout(config: UnitConfig) -> data.Layout:
    """``output_layout``, each field in whole bytes; TLAST is a wire of its own."""
    return _byte_lanes(output_layout(config), leave=("last",))


def axi_command_layout(config: UnitConfig) -> data.Layout:
    """``command_layout``: γ, β and the guess in whole bytes, then a byte with the rest."""
    return _byte_lanes(command_layout(config), together=("operation", "fill"))


def _byte_lanes(
    layout: data.StructLayout, *, leave: tuple[str, ...] = (), together: tuple[str, ...] = ()
) -> data.Layout:
    """Each field in bytes of its own; those ``together`` share the last bytes."""
    fields: dict[str, data.Field] = {}
    offset = 0
    for name, _ in layout:
        if name not in leave and name not in together:
            fields[name] = data.Field(layout[name].shape, offset)
            offset += axi_lane(layout[name].width)
    shared = [name for name in together if name in dict(layout)]
    low = offset
    for name in shared:
        fields[name] = data.Field(layout[name].shape, low)
        low += layout[name].width
    return data.FlexibleLayout(offset + axi_lane(low - offset), fields)


def context_layout(config: UnitConfig) -> data.StructLayout:
    """What the backward pass needs of the forward pass: stored outside between the two."""
    fields: dict[str, ShapeLike] = {
        "total": signed(config.need.sum),
        "spread": unsigned(config.divisor),
        "live": unsigned(1),
        "coefficient": signed(config.coefficient),
        "shift": unsigned(config.shift_bits),
    }
    if config.norm == "l1":
        fields["above"] = unsigned(config.log2_elements + 1)
        fields["threshold"] = signed(config.width)
    return data.StructLayout(fields)
