"""What is kept for rehearsal: int8 images or activations, balanced over the classes."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from l1bn.quantized import QTensor


class Memory:
    """A class-balancing reservoir (Chrysakis and Moens, ICML 2020).

    While there is room everything is kept. Then a number of a class that was never the largest
    takes a place of the largest one, and of a class that once was, each number seen so far is as
    likely to be kept. So all classes have as many places, or one more where they do not divide the
    capacity, and none favours what came last.

    Args:
        capacity: Numbers of images or activations.
        seed: Decides what is kept and drawn.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity = capacity
        self.exponent = 0
        self._values: list[Tensor] = []
        self._labels: list[int] = []
        self._seen: dict[int, int] = {}
        self._full: set[int] = set()  # classes that were the largest: they gain no more places
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> list[int]:
        """Class of each number kept."""
        return list(self._labels)

    @property
    def kibibytes(self) -> float:
        """Size of what is kept [KiB]."""
        return sum(v.numel() for v in self._values) / 1024

    def add(self, x: QTensor, labels: Tensor) -> None:
        """See images or activations, and keep some of them.

        Shape:
            - x: ``(N, C, H, W)``
            - labels: ``(N,)``

        Raises:
            ValueError: If their exponent is another than that of what is kept.
        """
        if self.capacity == 0:
            return
        if self._labels and x.exponent != self.exponent:
            raise ValueError(f"expected an exponent of {self.exponent}, got {x.exponent}")
        self.exponent = x.exponent
        for index in torch.randperm(len(labels), generator=self._generator).tolist():
            self._see(x.values[index], int(labels[index]))

    def _see(self, value: Tensor, label: int) -> None:
        self._seen[label] = self._seen.get(label, 0) + 1
        if len(self) < self.capacity:
            self._values.append(value.clone())
            self._labels.append(label)
            return
        counts = Counter(self._labels)
        most = max(counts.values())
        largest = {c for c, n in counts.items() if n == most}
        self._full |= largest
        if label not in self._full:
            place = self._place_of(largest)
        elif self._draw(self._seen[label]) < counts[label]:
            place = self._place_of({label})
        else:
            return
        self._values[place], self._labels[place] = value.clone(), label

    def _place_of(self, classes: set[int]) -> int:
        places = [i for i, label in enumerate(self._labels) if label in classes]
        return places[self._draw(len(places))]

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self._generator))

    def draw(self, count: int) -> tuple[QTensor, Tensor]:
        """Return some of what is kept, each at most once where there is enough.

        Shape:
            - Output: ``(count, C, H, W)``, ``(count,)``
        """
        chosen = torch.randperm(len(self), generator=self._generator)[:count].tolist()
        while len(chosen) < count:
            chosen.append(self._draw(len(self)))
        values = torch.stack([self._values[i] for i in chosen])
        labels = torch.tensor([self._labels[i] for i in chosen])
        return QTensor(values, self.exponent), labels
