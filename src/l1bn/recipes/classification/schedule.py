"""Learning rate over a run, as a share of the highest."""

from __future__ import annotations

import math

_START = 0.04
_END = 1e-4


def cosine(progress: float) -> float:
    """Half a cosine from 1 at ``progress`` 0 to 0 at 1 (Loshchilov and Hutter, 1608.03983)."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def one_cycle(progress: float, warmup: float) -> float:
    """Return a rise to 1 at ``warmup``, then a fall, both half cosines (Smith, 1708.07120).

    Args:
        progress: Share of the steps that are done, 0 to 1.
        warmup: Share of the steps in the rise.
    """
    if progress < warmup:
        return _START + (1.0 - _START) * (1.0 - cosine(progress / warmup))
    return _END + (1.0 - _END) * cosine((progress - warmup) / (1.0 - warmup))
