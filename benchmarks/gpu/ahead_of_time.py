"""Compile every GPU kernel without a GPU, and tabulate what the assembler says of it.

    python benchmarks/gpu/ahead_of_time.py [--out results/FOLDER] [--quick]

The launches are those that `l1bn.ops.triton` makes for the shapes below, recorded on tensors
without memory, so that what is compiled here is what runs there. Targets: sm_80, sm_90 and gfx942.
For NVIDIA the PTX goes through the bundled ``ptxas -v`` (registers, spills, shared memory); AMD's
assembly says the same itself. Loads and stores in loops are counted by width: ``narrow`` is how
many move fewer than 16 bytes at once though the layout allows it, sign bits aside. ``crowded`` are
kernels of which fewer warps live at once on a multiprocessor than ``least_occupancy`` says.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.gpu import assembly
from benchmarks.gpu.traffic import KERNELS, Case, Launch, launches_of
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
    Case((64, 256, 56, 56), torch.bfloat16, True, "relu", False, joined=True),
    Case((64, 512, 28, 28), torch.float32, False, "relu", False, joined=True),
    Case((16, 512, 4, 4), torch.float16, False, "relu6", False, joined=True),
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
    kernel = KERNELS[recorded_launch.kernel]
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


def must_be_wide(case: Case) -> bool:
    """Whether neighbours in memory are enough for 16 bytes at once, and known to be aligned."""
    neighbours = case.shape[1] if case.last or len(case.shape) == 2 else math.prod(case.shape[2:])
    return neighbours >= 64 and neighbours % 16 == 0


def shown(compiled: Any, target: str, kernel: str, case: Case) -> dict[str, Any]:
    """What the assembly says, and whether a bound is broken."""
    if target.startswith("sm"):
        text = compiled.asm["ptx"]
        found = assembly.assembled_ptx(text, "sm_90a" if target == "sm_90" else target)
    else:
        text = compiled.asm["amdgcn"]
        found = assembly.assembled_cdna(text)
    # The assembler sees only what is fixed; triton asks for the rest at the launch.
    found["shared"] = max(found["shared"], compiled.metadata.shared)
    warps = compiled.metadata.num_warps
    lives = assembly.occupancy(found["registers"], warps, found["shared"], target)
    loops = assembly.accesses(assembly.in_loops(text))
    return found | {
        "occupancy": lives,
        "crowded": int(lives < assembly.least_occupancy(kernel, case.dtype)),
        "accesses": " ".join(f"{k}:{v}" for k, v in sorted(loops.items())),
        "narrow": assembly.narrow(loops) if must_be_wide(case) else 0,
        "float_atomics": assembly.float_atomics(text),
    }


def launches_for(target: str, case: Case, keep_x: bool) -> list[Launch]:
    """Those of forward and backward on a target's warps."""
    with mock.patch.object(launch, "LANES", TARGETS[target].warp_size):
        return list(itertools.chain(*launches_of(case, keep_x)))


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Compile, kernel by kernel."""
    for case in CASES[:: 3 if quick else 1]:
        for keep_x in (False, True) if keeps_output(case.activation, case.dtype) else (True,):
            each = [launches_for(name, case, keep_x) for name in TARGETS]
            for same in zip(*each, strict=True):
                for (name, target), one in zip(TARGETS.items(), same, strict=True):
                    source, options = source_of(one)
                    compiled = triton.compile(source, target=target, options=options)
                    row: dict[str, Any] = {
                        "kernel": one.kernel, "target": name,
                        "shape": "x".join(map(str, case.shape)), "dtype": str(case.dtype)[6:],
                        "layout": "channels_last" if case.last else "contiguous",
                        "activation": case.activation, "residual": case.residual,
                        "joined": case.joined, "keeps_x": keep_x,
                        "warps": options["num_warps"],
                    }  # fmt: skip
                    row |= shown(compiled, name, one.kernel, case)
                    yield row


def main() -> int:
    """Compile everything; fail where a kernel has one of the faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for ahead_of_time.csv")
    parser.add_argument("--quick", action="store_true", help="every third case only")
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
