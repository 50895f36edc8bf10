"""Streams of tasks: new classes, or old ones seen in another way."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from l1bn.errors import UserError
from l1bn.recipes.continual.config import ContinualConfig
from l1bn.recipes.data import ImageSet
from l1bn.recipes.data.images import Split


@dataclass(frozen=True)
class Task:
    """What is learned at one time.

    Attributes:
        name: For tables and plots.
        train: Training images, uint8.
        test: Test images of the same kind.
    """

    name: str
    train: Split
    test: Split


def tasks_of(config: ContinualConfig, data: ImageSet, seed: int) -> list[Task]:
    """Return the tasks in their order.

    Args:
        config: Says which and how many.
        data: The images.
        seed: Decides which images are drawn, where not all are.

    Raises:
        UserError: If there are fewer classes than tasks need.
    """
    if config.stream == "domains":
        return [_domain(config, data, index, seed) for index in range(config.tasks)]
    count = len(data.classes)
    if count < 2 * config.tasks:
        raise UserError(
            f"expected at least two classes for each of {config.tasks} tasks, got {count} classes; "
            "lower --tasks"
        )
    borders = [i * count // config.tasks for i in range(config.tasks + 1)]
    return [
        Task(
            f"{first}-{end - 1}",
            data.train.only(range(first, end), config.images, seed),
            data.test.only(range(first, end)),
        )
        for first, end in pairwise(borders)
    ]


def joint_task(tasks: list[Task]) -> Task:
    """Return all tasks as one."""

    def join(splits: list[Split]) -> Split:
        return Split(torch.cat([s.images for s in splits]), torch.cat([s.labels for s in splits]))

    return Task("all", join([t.train for t in tasks]), join([t.test for t in tasks]))


def _domain(config: ContinualConfig, data: ImageSet, index: int, seed: int) -> Task:
    name, view = _VIEWS[index]
    train = data.train.only(None, config.images, seed)
    return Task(
        name,
        Split(view(train.images).contiguous(), train.labels),
        Split(view(data.test.images).contiguous(), data.test.labels),
    )


def _turned(quarters: int, images: Tensor) -> Tensor:
    return images.rot90(quarters, (2, 3))


_VIEWS = (
    ("upright", lambda x: x),
    ("quarter turn", lambda x: _turned(1, x)),
    ("half turn", lambda x: _turned(2, x)),
    ("inverted", lambda x: 255 - x),
    ("inverted, quarter turn", lambda x: _turned(1, 255 - x)),
)
"""The same images, seen in another way."""
