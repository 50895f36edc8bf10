"""What the assembly of a GPU kernel shows: memory accesses in loops, atomics, registers.

In the kernels' loops lies everything that grows with the input; before and after them lie vectors
of one number per channel. Reads PTX, and the assembly of
AMD's CDNA.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
import triton

#: A label, and a branch to one; `$L__BB0_2` in PTX, `.LBB0_2` in AMD's assembly.
_LABEL = re.compile(r"^\s*([$.]L\w*):")
_BRANCH = re.compile(r"\b(?:bra(?:\.uni)?|s_c?branch\w*)\s+([$.]L\w*)")
#: A branch that is always taken, and the end of a kernel.
_ALWAYS = re.compile(r"^\s*(?:bra(?:\.uni)?|s_branch)\s")
_END = re.compile(r"^\s*(?:ret;|s_endpgm)")
#: An operation, its vector, its type: ld.global.L1::evict.v4.b32
_PTX = re.compile(r"\b(ld|st)\.global([.\w:]*)")
#: global_load_dwordx4, buffer_store_short, flat_load_ubyte_d16
_CDNA = re.compile(r"\b(?:global|buffer|flat)_(load|store)_([a-z]+)(?:x(\d))?(?:_|\b)")
_CDNA_BYTES = {"dword": 4, "ushort": 2, "sshort": 2, "short": 2, "ubyte": 1, "sbyte": 1, "byte": 1}
#: Sums of floats, and the exchange by which an assembler may stand in for one.
_FLOAT_ATOMIC = re.compile(
    r"\b(?:atom|red)\.[\w.:]*add(?:\.noftz)?\.b?f|\batom\.[\w.:]*cas\b"
    r"|\b(?:global|buffer|flat)_atomic_(?:(?:pk_)?add_b?f|cmpswap)"
)


class _Block(NamedTuple):
    """Lines that run one after the other, and the blocks that may run next."""

    lines: list[str]
    next: set[int]


def _blocks(assembly: str) -> list[_Block]:
    """A block begins at each label and after each branch."""
    lines: list[list[str]] = [[]]
    places: dict[str, int] = {}
    for line in assembly.splitlines():
        if label := _LABEL.match(line):
            lines.append([])
            places[label[1]] = len(lines) - 1
        lines[-1].append(line)
        if _BRANCH.search(line) or _END.search(line):
            lines.append([])
    found = []
    for i, block in enumerate(lines):
        last = block[-1] if block else ""
        branch = _BRANCH.search(last)
        after = set() if _END.search(last) or _ALWAYS.search(last) else {i + 1}
        if branch:
            after.add(places[branch[1]])
        found.append(_Block(block, after & set(range(len(lines)))))
    return found


def in_loops(assembly: str) -> list[str]:
    """The lines that may run again: those of blocks that can be reached from themselves.

    A branch that goes back is not enough: assemblers also put rare blocks at the end.
    """
    blocks = _blocks(assembly)
    again = []
    for i, block in enumerate(blocks):
        seen: set[int] = set()
        open_ = list(block.next)
        while open_ and i not in seen:
            here = open_.pop()
            if here not in seen:
                seen.add(here)
                open_.extend(blocks[here].next)
        if i in seen:
            again += block.lines
    return again


def accesses(lines: Iterable[str]) -> Counter[str]:
    """Global loads and stores by the bytes that a thread moves at once: ``ld16``, ``st1``."""
    found: Counter[str] = Counter()
    for line in lines:
        if match := _PTX.search(line):
            kind, rest = match.groups()
            vector = re.search(r"\.v(\d)", rest)
            width = int(re.findall(r"\.[bfsu](\d+)", rest)[-1]) // 8
            found[f"{kind}{width * (int(vector[1]) if vector else 1)}"] += 1
        elif match := _CDNA.search(line):
            kind, unit, times = match.groups()
            found[f"{kind[:2].replace('lo', 'ld')}{_CDNA_BYTES[unit] * int(times or 1)}"] += 1
    return found


def narrow(found: Counter[str]) -> int:
    """How many accesses move fewer than 16 bytes; of one byte are sign bits alone.

    One where there is no access of 16 bytes: then what was read is no loop over the input.
    """
    widths = {name: int(name[2:]) for name in found}
    wide = any(found[name] for name, width in widths.items() if width >= 16)
    return sum(found[name] for name, width in widths.items() if 1 < width < 16) + (not wide)


def float_atomics(assembly: str) -> int:
    """Atomic operations whose result may depend on their order."""
    return len(_FLOAT_ATOMIC.findall(assembly))


def ptxas() -> Path:
    """The newest assembler that comes with triton (newer ones have two)."""
    folder = Path(triton.__file__).parent / "backends/nvidia/bin"
    newer = folder / "ptxas-blackwell"
    return newer if newer.exists() else folder / "ptxas"


def assembled_ptx(ptx: str, architecture: str) -> dict[str, int]:
    """Registers per thread, bytes spilled and bytes of shared memory, by ptxas -v."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [ptxas(), "-v", f"--gpu-name={architecture}", path, "-o", Path(folder) / "cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    text = done.stdout + done.stderr

    def number(pattern: str) -> int:
        found = re.search(pattern, text)
        return int(found[1]) if found else 0

    return {
        "registers": number(r"Used (\d+) registers"),
        "spilled": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        "shared": number(r"(\d+) bytes smem"),
    }


def assembled_cdna(assembly: str) -> dict[str, int]:
    """Vector registers per lane, accumulation registers included, scratch and shared memory."""

    def number(name: str) -> int:
        found = re.search(rf"^\s*\.{name}:\s*(\d+)", assembly, re.MULTILINE)
        if found is None:
            raise ValueError(f"expected .{name} in the assembly of an AMD kernel, got none")
        return int(found[1])

    # Scratch memory holds what was spilled, and nothing else: the kernels have no arrays.
    return {
        "registers": number("vgpr_count"),
        "spilled": number("private_segment_fixed_size"),
        "shared": number("group_segment_fixed_size"),
    }


#: Bytes of shared memory of a multiprocessor.
SHARED = {"sm_80": 164 * 1024, "sm_90": 228 * 1024, "gfx942": 64 * 1024}


def occupancy(registers: int, warps: int, shared: int, target: str) -> float:
    """Part of a multiprocessor's warps that its registers and shared memory let live at once.

    NVIDIA: 64 warps, 65,536 registers, of which a thread gets a multiple of eight; a block of warps
    takes 1 KiB of shared memory beside its own. AMD: 32 waves on four units, each with 512
    registers per lane, of which a wave gets a multiple of eight.
    """
    each = -(-registers // 8) * 8
    if target.startswith("gfx"):
        blocks = min(8, 512 // each) * 4 // warps
        if shared:
            blocks = min(blocks, SHARED[target] // shared)
        return min(32, blocks * warps) / 32
    by_registers = 65536 // (each * 32 * warps)
    by_memory = SHARED[target] // (shared + 1024)
    return min(64, min(by_registers, by_memory) * warps) / 64


def least_occupancy(kernel: str, dtype: torch.dtype) -> float:
    """The bound: half for plain sums, a quarter with statistics or constants per element.

    16 warps that load 16 bytes per thread have 8 KiB under way at least, and several loads each.
    A float64 takes two registers where others take one.
    """
    least = 0.5 if kernel.endswith("sum_kernel") else 0.25
    return least / 2 if dtype == torch.float64 else least
