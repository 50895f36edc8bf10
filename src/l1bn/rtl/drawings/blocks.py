"""The block diagram of a unit, with the widths that its configuration gives each block."""

from __future__ import annotations

from dataclasses import dataclass

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.emit.interface import Interface


@dataclass(frozen=True)
class Block:
    """A box of the diagram.

    Attributes:
        module: Name of the module's instance in the unit, or "" for what is no module of its own.
        text: What it says.
        place: Centre.
        size: Width and height.
        kind: "port", "element" (works for every element), "channel" (once per channel).
    """

    module: str
    text: str
    place: tuple[float, float]
    size: tuple[float, float]
    kind: str


def blocks(config: UnitConfig, boundary: Interface) -> list[Block]:
    """Every block of a unit and every end of its boundary."""
    return [*_element_blocks(config), *_scalar_blocks(config), *_ports(config, boundary)]


def _element_blocks(config: UnitConfig) -> list[Block]:
    l1, sums = config.norm == "l1", config.need.sum
    factors = [f"{config.operand} × {config.coefficient} bits"]
    if config.multipliers == 2:
        second = config.width if l1 else config.coefficient
        factors.append(f"{config.width} × {second} bits")
    if config.squarer:
        factors.append(f"a square of {config.width} bits")
    path = (
        "element path: one per clock, four stages\n"
        f"{' and '.join(factors)} → sum {config.element} bits\n"
        f"→ shift {config.spec.shift_min} to {config.spec.shift_max} → "
        f"saturate to {config.width} bits"
    )
    over = f"\nΣx over x ≥ μ, n: {config.log2_elements + 1} bits" if l1 else ""
    return [
        Block("path", path, (6.6, 6), (7.2, 1.9), "element"),
        Block("statistic", f"statistic\nΣx, Σg: {sums} bits{over}", (3.4, 3), (4, 1.7), "element"),
    ]


def _scalar_blocks(config: UnitConfig) -> list[Block]:
    wide = config.divisor + config.divisor_scale
    held = [f"γ/σ {config.coefficient} bits, its shift", "offsets of y and dx"]
    if config.counted:
        held.append(f"N, 2 to {config.elements}")
    found = [
        Block("", "registers\n" + "\n".join(held), (9.2, 3), (4.2, 1.7), "channel"),
        Block(
            "scalar", f"multiplier\n{config.scalar} bits\n2 bits per clock", (3.4, 0), (3.2, 1.5),
            "channel",
        ),
    ]  # fmt: skip
    if config.sigma == "pow2":
        power = f"shifter\n{config.need.covariance} bits\n1 bit per clock"
        found.append(Block("power", power, (7.2, 0), (3.2, 1.5), "channel"))
    else:
        divider = f"divider\n{wide} bits\n1 bit per clock"
        found.append(Block("divider", divider, (7.2, 0), (3.2, 1.5), "channel"))
    if config.norm == "l2":
        root = f"root\n{config.divisor} bits\n1 bit per clock"
        found.append(Block("root", root, (11, 0), (3.2, 1.5), "channel"))
    found.append(
        Block("", "state machine\none command at a time", (3.4, -2.7), (4, 1.2), "channel")
    )
    return found


def _ports(config: UnitConfig, boundary: Interface) -> list[Block]:
    l1, streams = config.norm == "l1", boundary.streams
    element = f"{streams['element'].word.port}\n" + ", ".join(
        f.name for f in streams["element"].word.fields
    )
    result = f"{streams['result'].word.port}\ny or dx" + (", x ≥ μ" if l1 else "")
    scalars = "snapshot, restore\ndgamma, dbeta"
    if boundary.registers:
        orders, scalars = "s_axi\nregisters", "context, dγ, dβ\nin registers; irq"
    else:
        word = streams["command"].word
        names = [f.name for f in word.fields]
        orders = f"{word.port}\n" + ", ".join(names[:2]) + "\n" + ", ".join(names[2:])
    size = (3.6, 1.4)
    return [
        Block("", element, (-1.6, 6), size, "port"), Block("", result, (14.6, 6), size, "port"),
        Block("", scalars, (14.6, 3), size, "port"), Block("", orders, (-1.6, -2.7), size, "port"),
    ]  # fmt: skip


#: Arrows, each by its points.
ARROWS: tuple[tuple[tuple[float, float], ...], ...] = (
    ((0.2, 6), (3, 6)),  # elements into the path
    ((10.2, 6), (12.8, 6)),  # results
    ((-1.6, 5.3), (-1.6, 3), (1.4, 3)),  # elements into the sums
    ((3.4, 2.15), (3.4, 1.2)),  # sums to the scalars
    ((6.3, 5.05), (6.3, 1.2)),  # Σg·x to the scalars
    ((9.2, 1.2), (9.2, 2.15)),  # scalars into registers
    ((9.2, 3.85), (9.2, 5.05)),  # registers into the path
    ((11.3, 3), (12.8, 3)),  # to the boundary
    ((0.2, -2.7), (1.4, -2.7)),  # commands
    ((3.4, -2.1), (3.4, -1.2)),  # control
)


def once(config: UnitConfig) -> tuple[tuple[float, float], tuple[float, float]]:
    """Around what works once per channel: centre, and width and height."""
    left, right = 1.2, 13.0 if config.norm == "l2" else 9.8
    return ((left + right) / 2, 0.0), (right - left, 2.4)
