"""How many threads torch computes with, for as long as a run lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def thread_count(count: int | None) -> Iterator[None]:
    """Compute with so many threads inside, and with as many as before afterwards.

    The number belongs to the whole process, and sums depend on it in their last digits.

    Args:
        count: How many; None leaves the number alone.
    """
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
