"""No inner loop of the native library reads with a wide load what narrow stores just wrote.

A processor forwards a store to a load only where the one store holds all of the load's bytes. A
compiler that copies a vector through the stack in smaller pieces makes each such load wait a dozen
cycles or more for the cache, which no test of values sees. objdump shows it.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from disassembly import Instruction, disassembled, functions, mentions

ISAS = ("baseline", "avx2", "avx512", "avx512bf16", "avx512vnni", "avxvnni")
#: A store this many instructions ago has long reached the cache.
NEAR = 200


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
