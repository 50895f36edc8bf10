"""Loss and accuracy of a classifier, each process looking at its part of the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import SupportsFloat

import torch
from torch import Tensor

from l1bn.recipes.data import Split
from l1bn.recipes.machine.processes import Processes

#: Gives the mean loss and the logits of images and their labels.
Loss = Callable[[Tensor, Tensor], tuple[SupportsFloat, Tensor]]

_AT_ONCE = 500


def mean_scores(split: Split, loss: Loss, processes: Processes) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    loss_sum, correct = 0.0, 0
    for images, labels in _chunks(split, processes):
        found, logits = loss(images, labels)
        loss_sum += float(found) * len(labels)
        correct += count_correct(logits, labels)
    total, correct_in_all = processes.sum(loss_sum, correct)
    return total / len(split), correct_in_all / len(split)


def class_accuracy(split: Split, classes: int, loss: Loss, processes: Processes) -> list[float]:
    """Return the accuracy on the images of each class."""
    right, all_ = torch.zeros(2, classes)
    for images, labels in _chunks(split, processes):
        predicted = loss(images, labels)[1].argmax(1).cpu()
        all_ += torch.bincount(labels, minlength=classes)
        right += torch.bincount(labels[predicted == labels], minlength=classes)
    counts = processes.sum(*right.tolist(), *all_.tolist())
    pairs = zip(counts[:classes], counts[classes:], strict=True)
    return [round(hits / max(images, 1), 5) for hits, images in pairs]


def count_correct(logits: Tensor, labels: Tensor) -> int:
    """Return how many images are given their class."""
    return int((logits.argmax(1).cpu() == labels).sum())


def _chunks(split: Split, processes: Processes) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this process' part of the images, so many at a time as memory allows."""
    own = processes.part(len(split))
    for first in range(own.start, own.stop, _AT_ONCE):
        chunk = slice(first, min(first + _AT_ONCE, own.stop))
        yield split.images[chunk], split.labels[chunk]
