"""The random number generators that a forward may use."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def rewound() -> Iterator[None]:
    """Put Python's, NumPy's and PyTorch's generators back at the end."""
    numpy = getattr(sys.modules.get("numpy"), "random", None)
    python_state = random.getstate()
    numpy_state = None if numpy is None else numpy.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.set_state(numpy_state)
