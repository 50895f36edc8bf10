"""The counter of batches, reached without an operator where it can be."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from l1bn.ops.running import count_batch


def test_a_batch_is_counted_in_place() -> None:
    for dtype in (torch.int64, torch.int32):
        batches = torch.tensor(41, dtype=dtype)
        view = batches.view(())
        count_batch(batches)
        assert view.item() == 42


def test_an_offset_counter_leaves_its_neighbours_alone() -> None:
    many = torch.zeros(3, dtype=torch.int64)
    count_batch(many[1])
    assert many.tolist() == [0, 1, 0]


def test_a_compiled_or_traced_counter_counts_too() -> None:
    batches = torch.tensor(0)
    torch.compile(count_batch, fullgraph=True, backend="eager")(batches)
    assert batches.item() == 1
    with FakeTensorMode() as mode:
        count_batch(mode.from_tensor(batches))  # has no memory that could be written
    assert batches.item() == 1
