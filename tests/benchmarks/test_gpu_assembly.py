"""The bounds on compiled GPU kernels: what breaks one is told, on each target."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl
from triton.compiler import ASTSource

from benchmarks.gpu import assembly
from benchmarks.gpu.ahead_of_time import TARGETS, shown
from benchmarks.gpu.traffic import Case

# Triton announces a default that will change.
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset")

CASE = Case((64, 64, 56, 56), torch.float32, False, "relu", False)
SIZES = {"x": "*fp32", "y": "*fp32", "total": "*fp32", "tiles": "i32"}


@triton.jit
def walk(x, y, total, tiles, STEP: tl.constexpr, KIND: tl.constexpr):
    """A sum and a copy of an input, with or without a fault."""
    lanes = tl.arange(0, 1024)
    sums = tl.zeros((1024,), tl.float32)
    for tile in range(tiles):
        at = (tile * 1024 + lanes) * STEP
        values = tl.load(x + at)
        tl.store(y + at, values)
        sums += values
    if KIND == 1:
        tl.atomic_add(total, tl.sum(sums, axis=0))
    elif KIND == 2:
        tl.atomic_add(total.to(tl.pointer_type(tl.int32)), tl.sum(sums, axis=0).to(tl.int32))
    else:
        tl.store(total + tl.program_id(0), tl.sum(sums, axis=0))


def found(target: str, step: int = 1, kind: int = 0) -> tuple[dict[str, Any], Any]:
    constants: dict[tuple[int, ...], Any] = {(4,): step, (5,): kind}
    attributes: dict[tuple[int, ...], Any] = {(i,): [["tt.divisibility", 16]] for i in range(4)}
    signature = SIZES | {"STEP": "constexpr", "KIND": "constexpr"}
    source = ASTSource(walk, signature, constants, attributes)
    compiled = triton.compile(source, target=TARGETS[target], options={"num_warps": 4})
    return shown(compiled, target, "walk", CASE), compiled


@pytest.fixture(autouse=True)
def _compiles() -> None:
    if not hasattr(walk, "params") or not hasattr(walk, "cache_key"):
        pytest.skip("Triton interprets here")


@pytest.mark.parametrize("target", TARGETS)
def test_sixteen_bytes_at_once_are_told_from_four(target: str) -> None:
    good, _ = found(target)
    assert good["narrow"] == good["float_atomics"] == good["spilled"] == good["crowded"] == 0
    # The one store of a sum lies in no loop.
    assert set(good["accesses"].replace(":", " ").split()[::2]) == {"ld16", "st16"}
    bad, _ = found(target, step=3)
    assert bad["narrow"] > 0


@pytest.mark.parametrize("target", TARGETS)
def test_sums_of_floats_in_any_order_are_told_from_integers(target: str) -> None:
    assert found(target, kind=1)[0]["float_atomics"] > 0
    assert found(target, kind=2)[0]["float_atomics"] == 0


def test_an_assembly_without_a_loop_over_the_input_is_no_proof() -> None:
    straight = "$L__BB0_1:\n ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1];\n ret;\n"
    assert assembly.in_loops(straight) == []
    assert assembly.narrow(assembly.accesses(assembly.in_loops(straight))) == 1


def test_a_rare_block_at_the_end_is_no_loop() -> None:
    kernel = "\n".join([
        ".LBB0_0:", " s_cbranch_execnz .LBB0_3", ".LBB0_1:", " global_load_dwordx4 v[0:3], v[4:5]",
        " s_cbranch_scc1 .LBB0_1", ".LBB0_2:", " s_endpgm", ".LBB0_3:",
        " global_store_dword v0, v1, s[0:1]", " s_branch .LBB0_1",
    ])  # fmt: skip
    assert assembly.accesses(assembly.in_loops(kernel)) == {"ld16": 1}


def test_occupancy_is_what_the_assembler_says() -> None:
    row, compiled = found("gfx942")
    said = re.search(r"; Occupancy: (\d+)", compiled.asm["amdgcn"])
    assert said is not None
    assert row["occupancy"] * 8 == int(said[1])
    # The table of NVIDIA's occupancy calculator: 128 registers are 16 warps of 64.
    assert assembly.occupancy(128, 8, 0, "sm_90") == 0.25
    assert assembly.occupancy(129, 8, 0, "sm_90") == 0.125
    assert assembly.occupancy(32, 8, 0, "sm_80") == 1.0
    assert assembly.occupancy(32, 8, 100 * 1024, "sm_80") == 0.125
