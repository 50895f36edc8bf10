"""Two branches of a residual block that are normalized and added: arguments of a joined call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from judge import Case, make_case
from l1bn.functional import Branch

Leaves = list[Tensor]


def make(
    shape: tuple[int, ...], dtype: torch.dtype, layouts: tuple[str, str], mean: float = 0.3
) -> tuple[Case, Case]:
    """Two branches."""
    first, second = (
        make_case(shape, dtype, layout=layout, mean=mean, seed=seed)
        for seed, layout in enumerate(layouts)
    )
    return first, second


def leaves_of(first: Case, second: Case) -> Leaves:
    """x, γ and β of both."""
    return [case.leaves()[name] for case in (first, second) for name in ("x", "weight", "bias")]


def branches(leaves: Leaves, running: list[Tensor] | None = None) -> tuple[Branch, Branch]:
    moved: list[Any] = running or [None] * 4
    first, second = (
        Branch(leaves[i], *moved[2 * i // 3 : 2 * i // 3 + 2], *leaves[i + 1 : i + 3], True, 0.1,
               1e-5)
        for i in (0, 3)
    )  # fmt: skip
    return first, second
