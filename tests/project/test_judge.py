"""The judge itself: its table is the only place for tolerances."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from judge import TOLERANCES, assert_close

HERE = Path(__file__).parents[1]
OWN = {"judge.py", "drive.py"}  # the second runs without torch, so without the judge


def test_no_test_brings_tolerances_of_its_own() -> None:
    found = [
        f"{path.relative_to(HERE)}:{node.lineno}"
        for path in sorted(HERE.rglob("*.py"))
        if path.name not in OWN
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword) and node.arg in ("rtol", "atol")
    ]
    assert not found, "name a kind of judge.TOLERANCES in their place"


@pytest.mark.parametrize("kind", [k for k, bounds in TOLERANCES.items() if None not in bounds])
def test_a_difference_above_the_bound_is_seen(kind: str) -> None:
    rtol, atol = TOLERANCES[kind]
    want = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert_close(want * (1 + 0.9 * rtol), want, kind)
    with pytest.raises(AssertionError):
        assert_close(want + 1.1 * (atol + rtol * want) + 1e-15, want, kind)
