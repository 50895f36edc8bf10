"""The runtime calls nothing but itself, memcpy and memset, and agrees with the tables of Python."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from l1bn.device.program import steps
from l1bn.device.source import runtime

HEADER = (runtime.sources() / "l1bn_device.h").read_text()


def test_it_calls_only_itself_and_two_functions_of_libc(objects: list[Path]) -> None:
    done = subprocess.run(["nm", *objects], capture_output=True, text=True, check=True)
    symbols = [line.split()[-2:] for line in done.stdout.splitlines() if line.count(" ") > 1]
    defined = {name for kind, name in symbols if kind in "TtRrDdBb"}
    called = {name for kind, name in symbols if kind == "U"}
    assert called - defined - {"_GLOBAL_OFFSET_TABLE_"} == {"memcpy", "memset"}
    # no memory of its own: only the table of steps, which position independence moves to data
    assert {n for k, n in symbols if k in "DdBbC"} <= {"kSteps"}


@pytest.mark.parametrize("enum", [steps.Kind, steps.Mode, steps.Flag])
def test_numbers_are_the_same_in_c_and_in_python(enum: type) -> None:
    found = {int(v) for v in enum}  # type: ignore[attr-defined]
    body = re.search(rf"enum l1bn_{enum.__name__.lower()} {{(.*?)}};", HEADER, re.DOTALL)
    assert body is not None
    numbers = {n: int(v) for n, v in re.findall(r"L1BN_(\w+) = (\d+)", body[1])}
    assert set(numbers.values()) == found
    for member in enum:  # type: ignore[attr-defined]
        name = "HAS_RELU" if member == steps.Flag.RELU and enum is steps.Flag else member.name
        assert numbers[name] == int(member)
