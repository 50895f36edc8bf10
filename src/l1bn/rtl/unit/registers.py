"""The register file of a unit behind AXI4-Lite: where everything lies, described once."""

from __future__ import annotations

from dataclasses import dataclass

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.ports import context_layout, operations

#: Bits of a register, and bytes from one to the next.
WORD, STEP = 32, 4


@dataclass(frozen=True)
class Bits:
    """A field of a register.

    Attributes:
        name: Its name.
        offset: Lowest bit.
        width: Bits.
        about: What it means.
    """

    name: str
    offset: int
    width: int
    about: str


@dataclass(frozen=True)
class Register:
    """Words of the address map that hold one thing.

    Attributes:
        name: Its name.
        address: Of its first word [byte].
        access: "rw", "ro", or "wo"; "w1c" is cleared by writing ones.
        about: What it holds.
        words: Number of words, the lowest bits first.
        signed: Two's complement; read sign-extended to whole words.
        fields: Its parts, where it has some.
    """

    name: str
    address: int
    access: str
    about: str
    words: int = 1
    signed: bool = False
    fields: tuple[Bits, ...] = ()


_CONTEXT = (
    "of the channel, after a forward command; write it back before a restore, or before a backward "
    "command where two multipliers overlap gradients"
)
_CONTROL = (
    Bits("fill", 2, 1, "where channels overlap: the step emits nothing"),
    Bits("start", 8, 1, "take the command"),
)
_STATUS = (
    Bits("busy", 0, 1, "a command runs"),
    Bits("done", 1, 1, "a command has ended; cleared by writing 1, and by the next start"),
    Bits("command_error", 2, 1, "a command or its count was none that there is; cleared by reset"),
    Bits("framing_error", 3, 1, "TLAST came early or was missing; cleared by reset"),
    Bits("phase", 4, 3, "the pass that s_axis must feed"),
)
_ENABLE = (Bits("done", 0, 1, "irq is high while done is set"),)
_UNIT = (
    Bits("width", 0, 8, "bits of the data"),
    Bits("log2_elements", 8, 8, "log2 of the elements per channel"),
    Bits("l2", 16, 1, "1 for L2BN"),
    Bits("overlap", 17, 1, "channels overlap"),
    Bits("counted", 18, 1, "a command sets the elements per channel; log2_elements is of the most"),
)


def identity(config: UnitConfig) -> int:
    """What the register ``unit`` reads."""
    shape = config.width | config.log2_elements << 8
    return shape | (config.norm == "l2") << 16 | config.overlap << 17 | config.counted << 18


def register_map(config: UnitConfig) -> tuple[Register, ...]:
    """Every register of a unit, by address."""
    context = context_layout(config)
    parts = tuple(Bits(name, context[name].offset, context[name].width, "") for name, _ in context)
    words = -(-context.size // WORD)
    codes = ", ".join(f"{o.value} {o.name.lower()}" for o in operations(config))
    control = (Bits("operation", 0, 2, codes), *_CONTROL)
    count = Register(
        "count", 0x28, "rw", f"elements per channel, 2 to {config.elements}, for count"
    )
    return (
        Register("control", 0x00, "wo", "starts a command", fields=control),
        Register("status", 0x04, "w1c", "what the unit does", fields=_STATUS),
        Register("interrupt_enable", 0x08, "rw", "what raises irq", fields=_ENABLE),
        Register("unit", 0x0C, "ro", "which unit this is", fields=_UNIT),
        Register("gamma", 0x10, "rw", "γ of the channel", signed=True),
        Register("beta", 0x14, "rw", "β of the channel", signed=True),
        Register("guess", 0x18, "rw", "threshold of the last batch (one-pass L1)", signed=True),
        Register("dbeta", 0x1C, "ro", "Σg, after a backward command", signed=True),
        Register("dgamma", 0x20, "ro", "Σg·x̂, after a backward command", signed=True, words=2),
        *([count] if config.counted else []),
        Register("context", 0x40, "rw", _CONTEXT, words=words, fields=parts),
    )


def address_bits(config: UnitConfig) -> int:
    """Bits of an address [bit]."""
    last = register_map(config)[-1]
    return (last.address + STEP * last.words - 1).bit_length()
