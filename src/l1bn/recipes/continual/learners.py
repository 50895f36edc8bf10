"""What learns: a float network or an integer one, on the same int8 images."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l1bn import quantized
from l1bn.quantized import QTensor
from l1bn.recipes.classification.parameters import parameter_groups
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.continual.config import ContinualConfig, Learner
from l1bn.recipes.data import ImageSet
from l1bn.recipes.models import build_model
from l1bn.recipes.names import NormName

_BATCH = 500  # of evaluation


class Learning(Protocol):
    """A network that learns batch by batch."""

    def step(self, x: QTensor, labels: Tensor, rate: float) -> None:
        """Learn from a batch, at a share of the learning rate."""

    def encode(self, x: QTensor) -> QTensor:
        """Return what is rehearsed: the images, or the activations of a layer."""

    def end_first_task(self) -> None:
        """Take note that the first task was learned."""

    def predict(self, x: QTensor) -> Tensor:
        """Return the class of each image."""


def build(config: ContinualConfig, learner: Learner, data: ImageSet, seed: int) -> Learning:
    """Return a fresh network; learners of one seed have the same first weights."""
    torch.manual_seed(seed)
    norm: NormName = "l2" if learner == "float-l2" else "l1"
    model = build_model(config.model, norm, data.spec(config.width))
    if learner == "int8-l1":
        return IntegerLearning(config, model, seed)
    return FloatLearning(config, model)


class FloatLearning:
    """A float network, BatchNorm or L1BN as it was built."""

    def __init__(self, config: ContinualConfig, model: nn.Module) -> None:
        self.config = config
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            parameter_groups(model, TrainConfig(weight_decay=config.weight_decay)),
            lr=config.lr,
            momentum=config.momentum,
            nesterov=True,
        )

    def step(self, x: QTensor, labels: Tensor, rate: float) -> None:
        """See ``Learning``."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * rate
        self.model.train()
        loss = F.cross_entropy(self.model(x.real()), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def encode(self, x: QTensor) -> QTensor:
        """See ``Learning``."""
        return x

    def end_first_task(self) -> None:
        """See ``Learning``."""

    def predict(self, x: QTensor) -> Tensor:
        """See ``Learning``."""
        self.model.eval()
        with torch.no_grad():
            return torch.cat([self.model(part.real()).argmax(1) for part in _parts(x)])


class IntegerLearning:
    """An integer network, whose front rests after the first task where activations are kept."""

    def __init__(self, config: ContinualConfig, model: nn.Module, seed: int) -> None:
        self.config = config
        self.network = quantized.prepare(model, quantized.Config(seed=seed))
        self.front: quantized.IntegerNetwork | None = None
        self._train(self.network)

    def _train(self, learns: quantized.IntegerNetwork) -> None:
        config, self.learns = self.config, learns
        self.optimizer = quantized.SGD(
            learns, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def step(self, x: QTensor, labels: Tensor, rate: float) -> None:
        """See ``Learning``."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * rate
        self.learns.train()
        loss = quantized.cross_entropy(self.learns, self.learns(x), labels)
        self.learns.backward(loss.error)
        self.optimizer.step()

    def encode(self, x: QTensor) -> QTensor:
        """See ``Learning``."""
        if self.front is None:
            return x
        self.front.eval()
        found = [self.front(part) for part in _parts(x)]
        return QTensor(torch.cat([f.values for f in found]), found[0].exponent)

    def end_first_task(self) -> None:
        """Freeze the front, if its activations are what is kept."""
        if self.config.replay == "latent":
            self.front, back = quantized.split(self.network, self.config.latent_layer)
            self._train(back)

    def predict(self, x: QTensor) -> Tensor:
        """See ``Learning``."""
        self.network.eval()
        return torch.cat([self.network(part).values.argmax(1) for part in _parts(x)])


def _parts(x: QTensor) -> list[QTensor]:
    return [QTensor(v, x.exponent) for v in x.values.split(_BATCH)]
