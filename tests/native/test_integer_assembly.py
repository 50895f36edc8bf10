"""The compiled kernels of integer training hold no floating-point arithmetic.

Sources without a floating-point type are no proof: a compiler may divide, convert or copy through
floating-point registers. objdump shows what it did. Moves, shuffles and bitwise operations of
vectors are arithmetic on no number, whatever type their names say.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from disassembly import disassembled, functions, mentions

ISAS = {
    "int8_conv": ("baseline", "avx2", "avx512", "avx512vnni", "avxvnni"),
    "int8_norm": ("baseline", "avx2", "avx512"),
}
#: Of one number or of packed ones, of half, single or double precision, or of bfloat16.
TYPES = r"(?:s[sdh]|p[sdh]|bf16|pbf16|nepbf16)"
# fmt: off
NAMES = [
    "add", "sub", "mul", "div", "sqrt", "rsqrt", "rsqrt14", "rsqrt28", "rcp", "rcp14", "rcp28",
    "exp2", "max", "min", "hadd", "hsub", "addsub", "dp", "round", "rndscale", "range", "reduce",
    "getexp", "getmant", "scalef", "fixupimm", "fpclass", "comi", "ucomi", r"cmp\w*",
    r"fn?m(?:add|sub)\w*", "fc?m(?:add|ul)c",
]
# fmt: on
ARITHMETIC = re.compile(rf"^v?(?:{'|'.join(NAMES)}){TYPES}$|^v?cvt|^vdpbf16ps$|^fw?[a-z]+$")
#: Integers all the same: comparisons of strings, and what saves registers.
OTHERS = re.compile(r"^cmps[bwlq]$|^f(?:xsave|xrstor)")


def is_float(mnemonic: str) -> bool:
    """Whether an instruction computes with floating-point numbers, or converts to or from them."""
    return bool(ARITHMETIC.match(mnemonic)) and not OTHERS.match(mnemonic)


def counted(room: str, text: str) -> tuple[int, Counter[str]]:
    """Instructions in the functions of a namespace, and the floating-point ones by name."""
    total, found = 0, Counter[str]()
    for name, body in functions(text):
        if mentions(name, room) or name.startswith(f"l1bn_{room}"):
            total += len(body)
            found.update(i.name for i in body if is_float(i.name))
    return total, found


@pytest.mark.parametrize("room", ISAS)
def test_the_integer_kernels_hold_no_floating_point_arithmetic(room: str) -> None:
    total, found = counted(room, disassembled())
    assert total > 10_000, "the kernels were not found"
    assert not found


@pytest.mark.parametrize("room", ISAS)
def test_every_instruction_set_was_looked_at(room: str) -> None:
    text = disassembled()
    names = [name for name, body in functions(text) if mentions(name, room) and body]
    for isa in ISAS[room]:
        if isa == "avxvnni" and "9avxvnni" not in text:
            continue  # the compiler knows no AVX-VNNI
        assert any(mentions(name, isa) for name in names), isa


def test_the_floating_point_kernels_are_seen() -> None:
    counts: Counter[str] = Counter()
    for name, body in functions(disassembled()):
        if not any(mentions(name, room) for room in ISAS):
            counts.update(i.name for i in body if is_float(i.name))
    assert sum(counts.values()) > 1000


# fmt: off
FLOATS = [
    "addss", "vaddpd", "mulsd", "vmulps", "divss", "vsqrtpd", "vfmadd231ps", "vfnmsub132sd",
    "cvtsi2sd", "vcvtdq2ps", "cvttss2si", "ucomisd", "vcomiss", "cmpltps", "vmaxps", "vrcp14ps",
    "vdpbf16ps", "vdpps", "vaddph", "roundsd", "fld", "fmulp", "fildll", "vgetexpps",
    "vrndscalepd",
]
# fmt: on


@pytest.mark.parametrize("mnemonic", FLOATS)
def test_floating_point_arithmetic_is_known(mnemonic: str) -> None:
    assert is_float(mnemonic)


# fmt: off
INTEGERS = [
    "movaps", "vmovups", "vmovss", "vmovsd", "movhps", "movlps", "xorps", "vandnps", "vorps",
    "vshufps", "vunpcklps", "vbroadcastss", "vpermilps", "vblendvps", "vinsertps", "vextractf128",
    "vperm2f128", "paddd", "vpmaddwd", "vpmulld", "vpdpbusd", "vpmaxsd", "pminsw", "vpcmpgtd",
    "cmpsb", "cmpl", "imul", "add", "sub", "div", "idivl", "addq", "mulq", "subl", "vpsubd",
    "vpaddb", "vpmovsxbd", "vzeroupper", "vinsertf32x8",
]
# fmt: on


@pytest.mark.parametrize("mnemonic", INTEGERS)
def test_moves_and_integers_are_not_taken_for_it(mnemonic: str) -> None:
    assert not is_float(mnemonic)


def test_a_planted_division_is_found() -> None:
    text = """
0000000000001000 <_ZN4l1bn9int8_norm4avx21fEv>:
    1000:\tvcvtsi2sd %rax,%xmm0,%xmm0
    1004:\tvdivsd %xmm1,%xmm0,%xmm0
    1008:\tvpaddd %ymm1,%ymm0,%ymm0
    100c:\tret
"""
    assert counted("int8_norm", text) == (4, Counter({"vcvtsi2sd": 1, "vdivsd": 1}))
