"""The machine code of the native library, function by function."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "src/l1bn/ops/native/libl1bn.so"
BYTES = {"xmm": 16, "ymm": 32, "zmm": 64}
LINE = re.compile(r"^ +([0-9a-f]+):\t(?:notrack |bnd )?(\S+) *(.*)$")
STACK = re.compile(r"^(-?0x[0-9a-f]+)?\(%(rsp|rbp)\)$")


@dataclass(frozen=True)
class Instruction:
    """One line of the disassembly."""

    address: int
    name: str
    operands: tuple[str, ...]

    def target(self) -> int | None:
        """Where it jumps to, if it is a jump."""
        if not self.name.startswith("j") or not self.operands:
            return None
        found = re.match(r"^([0-9a-f]+)( <.*)?$", self.operands[0])
        return int(found.group(1), 16) if found else None

    def stack(self) -> tuple[str, int, int, bool] | None:
        """Base register, first byte, bytes, and whether a vector is stored there or loaded."""
        if len(self.operands) < 2 or not self.name.lstrip("v").startswith("mov"):
            return self._read_by_arithmetic()
        for place, other in ((-1, 0), (0, -1)):
            slot = STACK.match(self.operands[place])
            register = re.match(r"^%([xyz]mm)\d+", self.operands[other])
            if slot and register:
                return self._slot(slot, _width(self.name, register.group(1)), place == -1)
        return None

    def _read_by_arithmetic(self) -> tuple[str, int, int, bool] | None:
        registers = [m.group(1) for o in self.operands if (m := re.match(r"^%([xyz]mm)\d+", o))]
        for operand in self.operands:
            if (slot := STACK.match(operand)) and registers and self.name[-2:] in ("ps", "pd"):
                return self._slot(slot, BYTES[registers[-1]], False)
        return None

    @staticmethod
    def _slot(slot: re.Match[str], size: int, stored: bool) -> tuple[str, int, int, bool]:
        return slot.group(2), int(slot.group(1) or "0", 16), size, stored


def _width(name: str, register: str) -> int:
    bare = name.removeprefix("v")
    if bare in ("movss", "movd"):
        return 4
    if bare in ("movsd", "movq", "movlps", "movhps", "movlpd", "movhpd"):
        return 8
    return BYTES[register]


def split_operands(text: str) -> tuple[str, ...]:
    return tuple(re.split(r",(?![^(]*\))", text.split("#")[0].strip()))


def functions(disassembly: str) -> Iterator[tuple[str, list[Instruction]]]:
    """Names and instructions of the functions that ``objdump -d`` shows."""
    name = ""
    body: list[Instruction] = []
    for line in disassembly.splitlines():
        if line.endswith(">:"):
            yield name, body
            name, body = line.split("<", 1)[1][:-2], []
        elif found := LINE.match(line):
            address, mnemonic, operands = found.groups()
            body.append(Instruction(int(address, 16), mnemonic, split_operands(operands)))
    yield name, body


@cache
def disassembled() -> str:
    """The library's machine code as text."""
    if shutil.which("objdump") is None:
        pytest.skip("needs objdump")
    if not LIBRARY.is_file():
        pytest.skip(f"{LIBRARY} was not built")
    command = ["objdump", "-d", "--no-show-raw-insn", "-M", "att", str(LIBRARY)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "x86-64" not in text:
        pytest.skip("reads the assembly of x86-64 only")
    return text


def mentions(function: str, isa: str) -> bool:
    """Whether a mangled name lies in the namespace of an instruction set."""
    return f"{len(isa)}{isa}" in function
