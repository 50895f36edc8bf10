"""Compile every GPU kernel without a GPU, and tabulate what the assembler says of it.

    python benchmarks/gpu/ahead_of_time.py [--out results/FOLDER] [--quick]

The launches are those that `l1bn.ops.triton` makes for the shapes below, recorded on tensors
without memory, so that what is compiled here is what runs there. Targets: sm_80, sm_90 and gfx942.
For NVIDIA the PTX goes through the bundled ``ptxas -v`` (registers, spills, shared memory), and its
global loads and stores are counted by width: ``narrow`` are kernels that load no 16 bytes at once
though the layout allows it. ``crowded`` are kernels of which fewer warps live at once on a
multiprocessor than ``least_occupancy`` says.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.gpu.traffic import Case, Launch, launches_of
from l1bn.activation import keeps_output
from l1bn.ops.triton import launch

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
CASES = [
    Case((64, 64, 112, 112), torch.bfloat16, True, "relu", False),
    Case((64, 256, 56, 56), torch.bfloat16, True, "relu", True),
    Case((64, 64, 56, 56), torch.float32, False, "relu", True),
    Case((512, 64, 16, 16), torch.float16, False, "relu6", False),
    Case((64, 2048, 7, 7), torch.bfloat16, True, None, False),
    Case((256, 1000), torch.float32, False, "relu", False),
    Case((16, 512, 4, 4), torch.float32, False, "relu", False),
    Case((64, 96, 56, 56), torch.bfloat16, True, "gelu", False),
    Case((64, 128, 28, 28), torch.bfloat16, True, "silu", True),
    Case((64, 64, 28, 28), torch.float16, False, ("leaky_relu", 0.2), False),
    Case((64, 64, 28, 28), torch.float32, False, "mish", False),
    Case((64, 64, 300, 300), torch.float64, False, None, False),
]


NAMES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
}
OPTIONS = ("num_warps", "num_stages")


def source_of(recorded_launch: Launch) -> tuple[ASTSource, dict[str, Any]]:
    """The kernel with its types and constants, as a launch would specialize it."""
    kernel = getattr(launch, recorded_launch.kernel)
    options = {k: v for k, v in recorded_launch.arguments.items() if k in OPTIONS}
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for index, parameter in enumerate(kernel.params):
        value = recorded_launch.arguments[parameter.name]
        one = isinstance(value, int) and value == 1
        if parameter.is_constexpr or value is None or one:
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
        elif isinstance(value, Tensor):
            signature[parameter.name] = f"*{NAMES[value.dtype]}"
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes), options


def ptxas() -> Path:
    """The newest assembler that comes with triton (newer ones have two)."""
    folder = Path(triton.__file__).parent / "backends/nvidia/bin"
    newer = folder / "ptxas-blackwell"
    return newer if newer.exists() else folder / "ptxas"


def assemble(ptx: str, architecture: str) -> dict[str, int]:
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


#: Bytes of shared memory of a multiprocessor.
SHARED = {"sm_80": 164 * 1024, "sm_90": 228 * 1024}


def occupancy(registers: int, warps: int, shared: int, target: str) -> float:
    """Part of a multiprocessor's 64 warps that its registers and shared memory let live at once.

    Of 65,536 registers each thread gets a multiple of eight. A block of warps takes 1 KiB of shared
    memory beside its own.
    """
    by_registers = 65536 // (-(-registers // 8) * 8 * 32 * warps)
    by_memory = SHARED[target] // (shared + 1024)
    return min(64, min(by_registers, by_memory) * warps) / 64


def least_occupancy(kernel: str, dtype: torch.dtype) -> float:
    """The bound: half for plain sums, a quarter with statistics or constants per element.

    16 warps that load 16 bytes per thread have 8 KiB under way at least, and several loads each.
    A float64 takes two registers where others take one.
    """
    least = 0.5 if kernel == "sum_kernel" else 0.25
    return least / 2 if dtype == torch.float64 else least


def accesses(ptx: str) -> Counter[str]:
    """Global loads and stores by the bytes that a thread moves at once."""
    found: Counter[str] = Counter()
    # An operation, its vector, its type: ld.global.L1::evict.v4.b32
    for kind, rest in re.findall(r"\b(ld|st)\.global([.\w:]*)", ptx):
        vector = re.search(r"\.v(\d)", rest)
        width = int(re.findall(r"\.[bfsu](\d+)", rest)[-1]) // 8
        found[f"{kind}{width * (int(vector[1]) if vector else 1)}"] += 1
    return found


def must_be_wide(case: Case) -> bool:
    """Whether neighbours in memory are enough for 16 bytes at once, and known to be aligned."""
    neighbours = case.shape[1] if case.last or len(case.shape) == 2 else math.prod(case.shape[2:])
    return neighbours >= 64 and neighbours % 16 == 0


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Compile, kernel by kernel."""
    for case in CASES[:: 4 if quick else 1]:
        for keep_x in (False, True) if keeps_output(case.activation, case.dtype) else (True,):
            for one in itertools.chain(*launches_of(case, keep_x)):
                for name, target in TARGETS.items():
                    source, options = source_of(one)
                    compiled = triton.compile(source, target=target, options=options)
                    row: dict[str, Any] = {
                        "kernel": one.kernel, "target": name,
                        "shape": "x".join(map(str, case.shape)), "dtype": str(case.dtype)[6:],
                        "layout": "channels_last" if case.last else "contiguous",
                        "activation": case.activation, "residual": case.residual,
                        "keeps_x": keep_x,
                        "warps": options["num_warps"],
                    }  # fmt: skip
                    if name.startswith("sm"):
                        ptx = compiled.asm["ptx"]
                        row |= assemble(ptx, "sm_90a" if name == "sm_90" else name)
                        # ptxas sees only what is fixed; triton asks for the rest at the launch.
                        row["shared"] = max(row["shared"], compiled.metadata.shared)
                        lives = occupancy(
                            row["registers"], options["num_warps"], row["shared"], name
                        )
                        row["occupancy"] = lives
                        row["crowded"] = int(lives < least_occupancy(one.kernel, case.dtype))
                        found = accesses(ptx)
                        row["accesses"] = " ".join(f"{k}:{v}" for k, v in sorted(found.items()))
                        row["narrow"] = int(must_be_wide(case) and not found["ld16"])
                        row["float_atomics"] = len(re.findall(r"(?:atom|red)\.[\w.:]*add\.f", ptx))
                    yield row


def main() -> int:
    """Compile everything; fail where a kernel has one of the faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for ahead_of_time.csv")
    parser.add_argument("--quick", action="store_true", help="every fourth case only")
    options = parser.parse_args()
    found = list(rows(options.quick))
    if options.out:
        names = list(max(found, key=len))
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / "ahead_of_time.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
    faults = "spilled", "crowded", "narrow", "float_atomics"
    bad = [row for row in found if any(row.get(fault) for fault in faults)]
    print(*bad, sep="\n")
    print(f"{len(found)} compiled, {len(bad)} with one of: {', '.join(faults)}")
    return min(len(bad), 1)


if __name__ == "__main__":
    raise SystemExit(main())
