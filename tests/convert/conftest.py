"""Fixtures of the conversion tests."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from l1bn.convert.fusion import decide
from l1bn.functional import l1_batch_norm_pair
from l1bn.nn.batchnorm import _L1BatchNorm


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, bool]]:
    """Every call of a layer's kernel: its activation, and whether it had a residual.

    Two layers whose outputs are added in one call are two calls.
    """
    made: list[tuple[Any, bool]] = []
    original = _L1BatchNorm._normalize

    def spy(
        self: Any, x: Tensor, activation: Any = None, residual: Any = None, mask: Any = None
    ) -> Tensor:
        made.append((activation, residual is not None))
        return original(self, x, activation, residual, mask)

    def spy_on_pairs(first: Any, second: Any, activation: Any, backend: str) -> Tensor:
        made.extend([(activation, True), (activation, False)])
        return l1_batch_norm_pair(first, second, activation, backend)

    monkeypatch.setattr(_L1BatchNorm, "_normalize", spy)
    monkeypatch.setattr(decide, "l1_batch_norm_pair", spy_on_pairs)
    return made
