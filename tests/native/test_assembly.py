"""No inner loop of the native library reads with a wide load what narrow stores just wrote.

A processor forwards a store to a load only where the one store holds all of the load's bytes. A
compiler that copies a vector through the stack in smaller pieces makes each such load wait a dozen
cycles or more for the cache, which no test of values sees. objdump shows it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "src/l1bn/ops/native/libl1bn.so"
ISAS = ("baseline", "avx2", "avx512", "avx512bf16", "avx512vnni", "avxvnni")
BYTES = {"xmm": 16, "ymm": 32, "zmm": 64}
LINE = re.compile(r"^ +([0-9a-f]+):\t(?:notrack |bnd )?(\S+) *(.*)$")
STACK = re.compile(r"^(-?0x[0-9a-f]+)?\(%(rsp|rbp)\)$")
#: A store this many instructions ago has long reached the cache.
NEAR = 200


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


def inner_loops(body: list[Instruction]) -> list[list[Instruction]]:
    """Instructions between a jump backwards and its target, where no other such jump is between."""
    place = {instruction.address: i for i, instruction in enumerate(body)}
    loops, inner_start = [], -1
    for end, instruction in enumerate(body):
        start = place.get(instruction.target() or -1)
        # By ends: a loop holds another where that started, and so ended, after this one's start.
        if start is None or start > end or start <= inner_start:
            continue
        loops.append(body[start : end + 1])
        inner_start = start
    return loops


def stalls(loop: list[Instruction]) -> int:
    """Wide loads from the stack of which a narrower store shortly before wrote a part."""
    found = 0
    recent: list[tuple[int, str, int, int]] = []
    for i, instruction in enumerate(loop):
        if instruction.name == "call":  # takes longer than a store to the cache
            recent.clear()
        slot = instruction.stack()
        if slot is None:
            continue
        base, first, size, stored = slot
        if stored:
            recent = [r for r in recent if r[1:3] != (base, first)]
            recent.append((i, base, first, size))
            continue
        found += any(
            b == base and s < size and f < first + size and first < f + s and i - j < NEAR
            for j, b, f, s in recent
        )
    return found


@cache
def surveyed(disassembly: str) -> tuple[Counter[str], Counter[str]]:
    """How many inner loops each function has, and how many such loads are in them."""
    loops: Counter[str] = Counter()
    loads: Counter[str] = Counter()
    for name, body in functions(disassembly):
        found = inner_loops(body)
        loops[name] += len(found)
        loads[name] += sum(map(stalls, found))
    return loops, +loads


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


@pytest.mark.parametrize("isa", ISAS)
def test_no_inner_loop_waits_for_its_own_stores(isa: str) -> None:
    _, loads = surveyed(disassembled())
    found = {n: c for n, c in loads.items() if mentions(n, isa)}
    assert not found, f"wide loads from narrow stores in inner loops, by function: {found}"


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_has_loops_to_look_at(isa: str) -> None:
    if isa == "avxvnni" and "9avxvnni" not in disassembled():
        pytest.skip("the compiler knows no AVX-VNNI")
    loops, _ = surveyed(disassembled())
    assert sum(c for n, c in loops.items() if mentions(n, isa)) > 10


COPY = """
0000000000001000 <_ZN4l1bn4avx2L1fEv>:
    1000:\tmovdqu (%rdi),%xmm0
    1004:\tmovaps %xmm0,0x40(%rsp)
    1008:\tmovdqu 0x10(%rdi),%xmm0
    100c:\tmovaps %xmm0,0x50(%rsp)
    1010:\tvaddps 0x40(%rsp),%ymm1,%ymm1
    1014:\tvmovaps 0x40(%rsp),%ymm2
    1018:\tjne    1000 <_ZN4l1bn4avx2L1fEv>
    101c:\tret
"""


def test_a_copy_in_pieces_is_seen() -> None:
    assert surveyed(COPY)[1] == {"_ZN4l1bn4avx2L1fEv": 2}


def test_a_whole_copy_and_one_outside_a_loop_are_not() -> None:
    assert not surveyed(COPY.replace("xmm0", "ymm0").replace("0x50(", "0x60("))[1]
    assert not surveyed(COPY.replace("jne    1000", "jne    101c"))[1]
