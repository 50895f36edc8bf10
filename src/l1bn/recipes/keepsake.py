"""What a page keeps of the data that its network was trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.device.web.page import Shown
from l1bn.recipes.data import ImageSet
from l1bn.recipes.data.images import Split

_LOOKED_AT = 1000
"""Images by which a dark ground is told from a light one."""


def shown(data: ImageSet, codes: Tensor, examples: int) -> Shown:
    """Return examples of every class, for learning and, half as many, for the test.

    Args:
        data: The data.
        codes: What becomes of each level of each colour, ``(C, 256)`` of int8.
        examples: Training images of each class; fewer where there are no more.
    """
    learned, tested = _first(data.train, examples), _first(data.test, (examples + 1) // 2)
    parts = ((data.train, learned), (data.test, tested))
    return Shown(
        name=data.name,
        classes=data.classes,
        codes=codes,
        images=torch.cat([split.images[index] for split, index in parts]),
        labels=torch.cat([split.labels[index] for split, index in parts]),
        held=torch.arange(len(learned) + len(tested)) >= len(learned),
        dark=bool(data.train.images[:_LOOKED_AT].float().mean() < 128),
    )


def _first(split: Split, count: int) -> Tensor:
    """Return the places of the first so many images of each class."""
    classes = split.labels.unique().tolist()
    return torch.cat([(split.labels == label).nonzero()[:count, 0] for label in classes])
