"""Fixtures of the conversion tests."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from l1bn.nn.batchnorm import _L1BatchNorm


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, bool]]:
    """Every call of a layer's kernel: its activation, and whether it had a residual."""
    made: list[tuple[Any, bool]] = []
    original = _L1BatchNorm._normalize

    def spy(self: Any, x: Tensor, activation: Any = None, residual: Any = None) -> Tensor:
        made.append((activation, residual is not None))
        return original(self, x, activation, residual)

    monkeypatch.setattr(_L1BatchNorm, "_normalize", spy)
    return made
