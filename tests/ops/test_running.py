"""Running statistics, and the counter of batches, reached without an operator where it can be."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from l1bn.functional import l1_batch_norm
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


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_variance_of_a_constant_channel_is_not_below_0(
    backend: str, dtype: torch.dtype, eps: float
) -> None:
    var = torch.zeros(3)
    x = torch.ones(8, 3, 4, 4, dtype=dtype)
    l1_batch_norm(x, torch.zeros(3), var, training=True, eps=eps, momentum=1.0, backend=backend)
    assert (var >= 0).all()
    assert (var <= 1e-7).all()
