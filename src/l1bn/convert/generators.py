"""The random number generators that a forward may use."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def rewound() -> Iterator[list[str]]:
    """Put Python's, NumPy's and PyTorch's generators back at the end.

    Yields:
        A list that then holds the names of those that had moved.
    """
    numpy: Any = getattr(sys.modules.get("numpy"), "random", None)
    python_state = random.getstate()
    numpy_state = None if numpy is None else numpy.get_state()
    torch_state = torch.random.get_rng_state()
    moved: list[str] = []
    try:
        with torch.random.fork_rng():  # the devices' generators
            yield moved
            if not torch.equal(torch.random.get_rng_state(), torch_state):
                moved.append("torch")
    finally:
        if random.getstate() != python_state:
            moved.append("random")
            random.setstate(python_state)
        if numpy_state is not None and _moved(numpy_state, numpy.get_state()):
            moved.append("numpy")
            numpy.set_state(numpy_state)


def _moved(before: Any, now: Any) -> bool:
    return now[2:] != before[2:] or bool((now[1] != before[1]).any())
