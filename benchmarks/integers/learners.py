"""Networks that learn from 8-bit images, in float32 and in integers, by one interface."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l1bn import quantized
from l1bn.recipes.data import ImageSet, Split


class Learner(Protocol):
    """What trains by batches of int8 images, and may add up the gradients of several."""

    def learn(self, x: quantized.QTensor, labels: Tensor, halvings: int = 0) -> float:
        """Add the gradient of the mean loss over ``2**halvings``; return the mean loss."""

    def step(self, rate: float) -> None:
        """Move the weights."""

    def classes(self, x: quantized.QTensor) -> Tensor:
        """Return the class of each image."""


class FloatLearner:
    """float32, with SGD of PyTorch."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def learn(self, x: quantized.QTensor, labels: Tensor, halvings: int = 0) -> float:
        """See ``Learner``."""
        loss = F.cross_entropy(self.model(x.real()), labels)
        (loss / 2**halvings).backward()
        return float(loss.detach())

    def step(self, rate: float) -> None:
        """See ``Learner``."""
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def classes(self, x: quantized.QTensor) -> Tensor:
        """See ``Learner``."""
        with torch.no_grad():
            found: Tensor = self.model.eval()(x.real()).argmax(1)
        self.model.train()
        return found


class IntegerLearner:
    """int8, every tensor of a step in integers."""

    def __init__(self, model: nn.Module, config: quantized.Config) -> None:
        self.network = quantized.prepare(model, config)
        self.optimizer = quantized.SGD(
            self.network, lr=1.0, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def learn(self, x: quantized.QTensor, labels: Tensor, halvings: int = 0) -> float:
        """See ``Learner``."""
        loss = quantized.cross_entropy(self.network, self.network(x), labels)
        error = quantized.QTensor(loss.error.values, loss.error.exponent - halvings)
        self.network.backward(error)
        return loss.value

    def step(self, rate: float) -> None:
        """See ``Learner``."""
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()

    def classes(self, x: quantized.QTensor) -> Tensor:
        """See ``Learner``."""
        found = self.network.eval()(x).values.argmax(1)
        self.network.train()
        return found


class Images:
    """Images of a split in 8 bits, those that all learners see.

    Args:
        data: Whose moments normalize them.
        split: The images.
        mirror: Whether to mirror them.
    """

    def __init__(self, data: ImageSet, split: Split, mirror: bool = False) -> None:
        mean, deviation = (v.view(1, -1, 1, 1) for v in data.moments())
        values = split.images.flip(3) if mirror else split.images
        coded = quantized.quantize((values.float() - mean) / deviation, -5)
        last = coded.values.contiguous(memory_format=torch.channels_last)
        self.x, self.labels = quantized.QTensor(last, coded.exponent), split.labels

    def part(self, chosen: Tensor) -> tuple[quantized.QTensor, Tensor]:
        """Return some of the images."""
        return quantized.QTensor(self.x.values[chosen], self.x.exponent), self.labels[chosen]

    def accuracy(self, learner: Learner) -> float:
        """Share of images whose class a learner finds [%]."""
        found = learner.classes(self.x) == self.labels
        return round(100 * float(found.float().mean()), 2)
