"""The committed counts are those of the models that the benchmark names."""

from __future__ import annotations

import csv

import torch
from torch import nn

from benchmarks.harness import RESULTS
from benchmarks.models.conversion import OTHERS, TRANSFORMERS, saved_bytes


def test_every_model_is_counted() -> None:
    with (RESULTS / "conversion.csv").open(newline="") as file:
        counted = [row["model"] for row in csv.DictReader(file)]
    named = [f"{name} (transformers)" for name in TRANSFORMERS]
    named += [f"{name} ({library})" for library, names in OTHERS.items() for name in names]
    assert counted == named


def test_bytes_are_those_of_distinct_memory() -> None:
    class Block(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = (x.detach().requires_grad_() * 2).relu()
            return {"once": y, "again": y.flatten().relu()}

    x = torch.randn(4, 8)
    # Both ReLUs keep their output; the product by a number keeps nothing.
    assert saved_bytes(Block(), x) == 2 * x.nbytes
