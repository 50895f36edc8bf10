"""Emulated processors learn the same integers, and no image computes in floating point."""

from __future__ import annotations

import re
import subprocess
import typing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from l1bn import device, quantized, tools
from l1bn.device.trial import run, targets
from l1bn.quantized.config import Statistics
from l1bn.recipes.board import BoardConfig
from small_networks import arranged, digits, dscnn, lenet, resnet8, take_step, trained

STEPS, BATCH, RATE, INFERENCES = 20, 4, 0.05, 2
_SOFT_FLOAT = re.compile(
    r"__(?:aeabi_[fd]|(?:add|sub|mul|div|neg|eq|ne|lt|gt|le|ge)[sd]f|float|fix)"
)
_FLOAT_INSTRUCTION = re.compile(
    r"^\s+[0-9a-f]+:\s+[0-9a-f ]+\s(v\w+\.f(?:16|32|64)|f[a-z]+\.[sd]\b)"
)


@cache
def planned(name: str) -> tuple[device.Build, run.Work, list[np.ndarray], bytes]:
    """A network, its work, and what Python makes of it: logits and the last state."""
    torch.manual_seed(0)
    floats = {
        "resnet8": lambda: resnet8(4),
        "lenet": lenet,
        "dscnn": lambda: dscnn(4, 2),
        "arranged": arranged,
        "moving": lambda: resnet8(4),
    }[name]()
    floats(torch.zeros(2, 1, 8, 8))
    statistics: Statistics = "running" if name == "moving" else "batch"
    network = trained(floats, quantized.Config(statistics=statistics))
    device.choose(network, "all")
    build = device.build(network, (1, 8, 8), device.Options(batch=BATCH))
    images, labels = digits(0, STEPS * BATCH)
    work = run.Work(images, labels, [RATE] * STEPS, INFERENCES)
    optimizer = quantized.SGD(network, RATE)
    before = build.layout.pack()
    logits = []
    for step in range(STEPS):
        batch, classes = digits(step * BATCH, BATCH)
        logits.append(take_step(network, optimizer, batch, classes).numpy().reshape(-1))
    state = build.layout.pack()
    network.eval()
    images_alone = (digits(index, 1)[0] for index in range(INFERENCES))
    logits += [network(image).values.numpy().reshape(-1) for image in images_alone]
    device.choose(network, "all")
    build.layout.unpack(before)
    return build, work, logits, state


def compiled(
    name: str, network: str, folder: Path, flags: list[str]
) -> tuple[targets.Target, Path]:
    target = targets.TARGETS[name]
    if reason := target.missing():
        pytest.skip(reason)
    build, work, _, _ = planned(network)
    return target, run.compile_trial(build, work, target, folder, flags)


_ALSO = {
    "host": ("arranged", "moving"),
    "cortex-m0": ("arranged", "moving"),  # 64 bits in software
    "cortex-m55": ("arranged", "moving"),
    "wasm": ("arranged",),
}
"""More networks, where their kernels are most likely to differ."""


@pytest.mark.parametrize(
    ("name", "network", "flags"),
    [
        (name, network, ["-O1", "-fsanitize=address"] if name == "host" else [])
        for name in targets.TARGETS
        for network in ("resnet8", "lenet", "dscnn", *_ALSO.get(name, ()))
    ],
)
def test_a_processor_learns_what_python_learns(
    name: str, network: str, flags: list[str], tmp_path: Path
) -> None:
    target, program = compiled(name, network, tmp_path, flags)
    build, _, logits, state = planned(network)
    outcome = run.run_trial(build, program, target)
    assert len(outcome.logits) == len(logits) == STEPS + INFERENCES
    for step, (got, wanted) in enumerate(zip(outcome.logits, logits, strict=True)):
        np.testing.assert_array_equal(got, wanted, f"logits of step {step}")
    assert outcome.state == state
    if target.binutils is not None:
        _holds_no_floating_point(target.binutils, program, _VECTORS.get(name))
        assert 0 < outcome.stack < 2048  # what README.md of a written network says
        assert all(forward > 0 for forward, _, _ in list(outcome.instructions.values())[:-1])


_VECTORS = {"cortex-m4": "smlad", "cortex-m7": "smlad", "cortex-m55": "vmlava"}
"""Products that these processors sum several of in an instruction."""


def _decoder(prefix: str, program: Path) -> list[str]:
    """What objdump must be told: it does not know a Cortex-M55 by its program."""
    named = subprocess.run([f"{prefix}readelf", "-A", program], capture_output=True, text=True)
    return ["-m", "armv8.1-m.main"] if "MVE" in named.stdout else []


def _holds_no_floating_point(prefix: str, program: Path, vectors: str | None) -> None:
    symbols = subprocess.run([f"{prefix}nm", program], capture_output=True, text=True, check=True)
    assert "l1bn_sgd_step" in symbols.stdout
    assert [line for line in symbols.stdout.splitlines() if _SOFT_FLOAT.search(line)] == []
    code = subprocess.run(
        [f"{prefix}objdump", "-d", *_decoder(prefix, program), program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(code.stdout) > 10_000
    assert vectors is None or vectors in code.stdout
    assert [line for line in code.stdout.splitlines() if _FLOAT_INSTRUCTION.match(line)] == []


@pytest.mark.parametrize(
    "line", ["   1a:\tee30 0a20 \tvadd.f32\ts0, s0, s1", " 80: 00b50553  fadd.s a0"]
)
def test_the_search_finds_floating_point(line: str) -> None:
    assert _FLOAT_INSTRUCTION.match(line)
    assert _SOFT_FLOAT.search("00000000 T __aeabi_fadd")
    assert _SOFT_FLOAT.search("00000000 T __divdf3")
    assert not _SOFT_FLOAT.search("00000000 T __aeabi_uldivmod")


def test_clang_compiles_the_runtime(tmp_path: Path) -> None:
    if reason := tools.missing("clang"):
        pytest.skip(reason)
    build, _, _, _ = planned("resnet8")
    folder = device.write(build, tmp_path)
    files = sorted(map(str, folder.glob("*.c")))
    subprocess.run(["clang", *targets.STRICT, "-fsyntax-only", *files], check=True)


def test_the_command_offers_every_processor() -> None:
    offered = typing.get_args(typing.get_type_hints(BoardConfig)["target"])
    assert offered == tuple(targets.TARGETS)
