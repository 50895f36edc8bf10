"""Compile every GPU kernel without a GPU, and tabulate what the assembler says of it.

    python benchmarks/gpu/ahead_of_time.py [--out results/FOLDER] [--quick]

The launches are those that `l1bn.ops.triton` makes for the shapes below, recorded on tensors
without memory, so that what is compiled here is what runs there. Targets: sm_80, sm_90 and gfx942.
For NVIDIA the PTX goes through the bundled ``ptxas -v`` (registers, spills, shared memory), and its
global loads and stores are counted by width.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from l1bn.activation import clips, keeps_output
from l1bn.ops.records import Call, Running
from l1bn.ops.triton import launch, plan

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
KERNELS = [name for name in vars(launch) if name.endswith("_kernel")]
#: Shape, dtype, channels last, activation, residual.
CASES = [
    ((64, 64, 112, 112), torch.bfloat16, True, "relu", False),
    ((64, 256, 56, 56), torch.bfloat16, True, "relu", True),
    ((64, 64, 56, 56), torch.float32, False, "relu", True),
    ((512, 64, 16, 16), torch.float16, False, "relu6", False),
    ((64, 2048, 7, 7), torch.bfloat16, True, None, False),
    ((256, 1000), torch.float32, False, "relu", False),
    ((16, 512, 4, 4), torch.float32, False, "relu", False),
    ((64, 96, 56, 56), torch.bfloat16, True, "gelu", False),
    ((64, 128, 28, 28), torch.bfloat16, True, "silu", True),
    ((64, 64, 28, 28), torch.float16, False, ("leaky_relu", 0.2), False),
    ((64, 64, 28, 28), torch.float32, False, "mish", False),
    ((64, 64, 300, 300), torch.float64, False, None, False),
]


@dataclass
class Launch:
    """One recorded launch."""

    kernel: str
    arguments: dict[str, Any]


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collect launches in the place of running them."""
    launches: list[Launch] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: object) -> Any:
            return lambda **arguments: launches.append(Launch(self.name, arguments))

    with mock.patch.multiple(launch, **{name: Recorder(name) for name in KERNELS}):
        yield launches


def launches_of(case: tuple[Any, ...], keep_x: bool) -> list[Launch]:
    """What training forward and backward launch for a case."""
    shape, dtype, last, activation, has_residual = case

    def tensor() -> Tensor:
        v = torch.empty(shape, dtype=dtype, device="meta")
        return v.contiguous(memory_format=torch.channels_last) if last else v

    def vector() -> Tensor:
        return torch.empty(shape[1], device="meta")

    x, residual = tensor(), tensor() if has_residual else None
    call = Call(vector(), vector(), activation, 1e-5)
    with recorded() as launches:
        bits = not keep_x
        worst = torch.empty(1, dtype=torch.int32, device="meta") if bits else None
        running = Running(vector(), vector(), 0.1)
        _, kept = launch.forward(x, residual, call, running, bits, worst)
        bends = activation is not None and not clips(activation)
        kept = kept._replace(
            x=x if keep_x else None,
            y=None if activation is None or (keep_x and bends) else kept.y,
            residual=kept.residual if bends or not keep_x else None,
        )
        launch.backward(tensor(), kept, call, (True, True, True, has_residual))
    return launches


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


def occupancy(registers: int, warps: int) -> float:
    """Part of a multiprocessor's 64 warps that its 65,536 registers let live at once.

    Registers are dealt out in eights per thread; these kernels need little shared memory.
    """
    blocks = 65536 // (-(-registers // 8) * 8 * 32 * warps)
    return min(64, blocks * warps) / 64


def accesses(ptx: str) -> Counter[str]:
    """Global loads and stores by the bytes that a thread moves at once."""
    found: Counter[str] = Counter()
    # An operation, its vector, its type: ld.global.L1::evict.v4.b32
    for kind, rest in re.findall(r"\b(ld|st)\.global([.\w:]*)", ptx):
        vector = re.search(r"\.v(\d)", rest)
        width = int(re.findall(r"\.[bfsu](\d+)", rest)[-1]) // 8
        found[f"{kind}{width * (int(vector[1]) if vector else 1)}"] += 1
    return found


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Compile, kernel by kernel."""
    for case in CASES[:: 4 if quick else 1]:
        shape, dtype, last, activation, has_residual = case
        for keep_x in (False, True) if keeps_output(activation, dtype) else (True,):
            for one in launches_of(case, keep_x):
                for name, target in TARGETS.items():
                    source, options = source_of(one)
                    compiled = triton.compile(source, target=target, options=options)
                    row: dict[str, Any] = {
                        "kernel": one.kernel, "target": name,
                        "shape": "x".join(map(str, shape)), "dtype": str(dtype)[6:],
                        "layout": "channels_last" if last else "contiguous",
                        "activation": activation, "residual": has_residual, "keeps_x": keep_x,
                        "warps": options["num_warps"],
                    }  # fmt: skip
                    if name.startswith("sm"):
                        ptx = compiled.asm["ptx"]
                        row |= assemble(ptx, "sm_90a" if name == "sm_90" else name)
                        row["occupancy"] = occupancy(row["registers"], options["num_warps"])
                        row["accesses"] = " ".join(
                            f"{k}:{v}" for k, v in sorted(accesses(ptx).items())
                        )
                        row["float_atomics"] = len(re.findall(r"(?:atom|red)\.[\w.:]*add\.f", ptx))
                    yield row


def main() -> int:
    """Compile everything; fail where a kernel spills or adds floats atomically."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for ahead_of_time.csv")
    parser.add_argument("--quick", action="store_true", help="every fourth case only")
    options = parser.parse_args()
    assert plan.TILE  # the plan decides what is compiled
    found = list(rows(options.quick))
    names = list(max(found, key=len))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    for target in (options.out and (options.out / "ahead_of_time.csv").open("w"), sys.stdout):
        if target:
            writer = csv.DictWriter(target, names)
            writer.writeheader()
            writer.writerows(found)
    bad = [row for row in found if row.get("spilled") or row.get("float_atomics")]
    print(f"{len(found)} compiled, {len(bad)} with spills or atomic additions of floats")
    return min(len(bad), 1)


if __name__ == "__main__":
    raise SystemExit(main())
