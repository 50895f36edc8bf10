"""Batches of 1 to 64 images: statistics of the batch against running ones, int8 against float32.

    python -m benchmarks.integers.small_batches

Writes ``results/small_batches.csv``, a row per run, and its environment. Every run sees the same
images in the same order and steps after 64 of them: a batch of 4 adds up the gradients of 16
backward passes. ``momentum`` is that of 64 images, spread over the batches that make them. The
network was trained in float32 on upright digits and adapts to mirrored ones, as on a device.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import refuse_on_red, write
from l1bn import L1BatchNorm2d, quantized
from l1bn.recipes.data import ImageSet, Split, load_data
from l1bn.recipes.models import build_model

IMAGES_PER_STEP = 64
MOMENTUM = 0.1


class Schedule(NamedTuple):
    """Epochs, and the rate from which it falls to 0."""

    epochs: int
    rate: float


FIRST = Schedule(6, 0.1)
EPOCHS = 3
RATES = (("batch", 0.1), ("batch", 0.005), ("running", 0.005))
"""Constants leave out the terms of the gradient that keep a batch's statistics in place, so they
take a lower rate: at 0.03 float32 and int8 diverge alike. The lower one says what it costs."""
K = (math.pi / 2) ** 0.5


class Running:
    """A float L1BN that trains by running statistics: the rule of ``Config(statistics="running")``.

    The layer is in evaluation mode, so its statistics are constants; ``move`` comes after backward.
    """

    def __init__(self, layer: L1BatchNorm2d, momentum: float) -> None:
        self.layer, self.momentum = layer.eval(), momentum
        self.batches = int(layer.num_batches_tracked)
        self.seen = torch.empty(0)
        layer.register_forward_pre_hook(self._see)

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen = inputs[0].detach()
        if self.batches == 0:
            self.layer.running_mean.copy_(self.seen.mean((0, 2, 3)))
            self._toward(1.0)

    def move(self) -> None:
        """Move the statistics toward the batch that was seen."""
        self.batches += 1
        if self.batches > 1 and self.momentum:
            self._toward(max(self.momentum, 1 / self.batches))

    def _toward(self, share: float) -> None:
        mean, variance, x = self.layer.running_mean, self.layer.running_var, self.seen
        sigma = K * (x - mean.view(1, -1, 1, 1)).abs().mean((0, 2, 3))
        before = (variance + self.layer.eps).sqrt()
        variance.copy_((before + share * (sigma - before)).square() - self.layer.eps)
        mean.lerp_(x.mean((0, 2, 3)), share)


class Learner(Protocol):
    """A network that adds up gradients of small batches."""

    def learn(self, x: quantized.QTensor, labels: Tensor) -> float:
        """Add the gradient of a batch; return its loss."""

    def step(self, rate: float) -> None:
        """Move the weights."""

    def classes(self, x: quantized.QTensor) -> Tensor:
        """Return the class of each image."""


class FloatLearner:
    """float32, with SGD of PyTorch."""

    def __init__(self, model: nn.Module, kind: str, momentum: float) -> None:
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.running: list[Running] = []
        for norm in self.model.train().modules():
            if isinstance(norm, L1BatchNorm2d):
                norm.momentum = momentum
                if kind != "batch":
                    self.running.append(Running(norm, momentum if kind == "running" else 0.0))
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def learn(self, x: quantized.QTensor, labels: Tensor) -> float:
        """Add the gradient of a batch; return its loss."""
        loss = F.cross_entropy(self.model(x.real()), labels)
        (loss * len(labels) / IMAGES_PER_STEP).backward()
        for running in self.running:
            running.move()
        return float(loss.detach())

    def step(self, rate: float) -> None:
        """Move the weights."""
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def classes(self, x: quantized.QTensor) -> Tensor:
        """Return the class of each image."""
        with torch.no_grad():
            found = self.model.eval()(x.real()).argmax(1)
        self.model.train()
        for running in self.running:
            running.layer.eval()
        return found


class IntegerLearner:
    """int8, every tensor of a step in integers."""

    def __init__(self, model: nn.Module, config: quantized.Config) -> None:
        self.network = quantized.prepare(model, config)
        self.optimizer = quantized.SGD(self.network, lr=1.0, momentum=0.9, weight_decay=5e-4)

    def learn(self, x: quantized.QTensor, labels: Tensor) -> float:
        """Add the gradient of a batch; return its loss."""
        loss = quantized.cross_entropy(self.network, self.network(x), labels)
        part = (IMAGES_PER_STEP // len(labels)).bit_length() - 1  # the mean of 2**part batches
        self.network.backward(quantized.QTensor(loss.error.values, loss.error.exponent - part))
        return loss.value

    def step(self, rate: float) -> None:
        """Move the weights."""
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()

    def classes(self, x: quantized.QTensor) -> Tensor:
        """Return the class of each image."""
        found = self.network.eval()(x).values.argmax(1)
        self.network.train()
        return found


@dataclass(frozen=True)
class Images:
    """Coded images of a split."""

    x: quantized.QTensor
    labels: Tensor

    @classmethod
    def of(cls, data: ImageSet, split: Split, mirror: bool) -> Images:
        """Code a split."""
        mean, deviation = (v.view(1, -1, 1, 1) for v in data.moments())
        values = split.images.flip(3) if mirror else split.images
        return cls(quantized.quantize((values.float() - mean) / deviation, -5), split.labels)

    def part(self, chosen: Tensor) -> tuple[quantized.QTensor, Tensor]:
        """Return some of the images."""
        return quantized.QTensor(self.x.values[chosen], self.x.exponent), self.labels[chosen]


def train(learner: Learner, images: Images, schedule: Schedule, batch: int, seed: int) -> float:
    """Learn, and return the mean loss of the last epoch."""
    order, done = torch.Generator().manual_seed(seed), 0
    losses: list[float] = []
    count = len(images.labels) // IMAGES_PER_STEP * IMAGES_PER_STEP
    steps = schedule.epochs * count // IMAGES_PER_STEP
    for _ in range(schedule.epochs):
        losses = []
        for chosen in torch.randperm(len(images.labels), generator=order)[:count].split(
            IMAGES_PER_STEP
        ):
            for part in chosen.split(batch):
                losses.append(learner.learn(*images.part(part)))
            learner.step(schedule.rate * (1 - done / steps))
            done += 1
    return statistics.fmean(losses)


def accuracy(learner: Learner, images: Images) -> float:
    """Share of images whose class is found [%]."""
    found = learner.classes(images.x) == images.labels
    return round(100 * float(found.float().mean()), 2)


def trained(data: ImageSet, options: argparse.Namespace, seed: int) -> nn.Module:
    """Return a network that was trained in float32, in batches of 64, on upright images."""
    torch.manual_seed(seed)
    model = build_model(options.model, "l1", data.spec(options.width))
    images = Images.of(data, data.train.only(images=options.images, seed=seed), mirror=False)
    train(FloatLearner(model, "batch", MOMENTUM), images, FIRST, IMAGES_PER_STEP, seed)
    return model


def run(
    data: ImageSet, options: argparse.Namespace, model: nn.Module, row: dict[str, Any]
) -> dict[str, Any]:
    """Adapt a copy of a network to mirrored images."""
    model, seed = copy.deepcopy(model).train(), row["seed"]
    split = data.train.only(images=options.images, seed=seed)
    images, test = (Images.of(data, s, mirror=True) for s in (split, data.test))
    if row["precision"] == "int8":
        config = quantized.Config(statistics=row["statistics"], momentum=row["momentum"], seed=seed)
        learner: Learner = IntegerLearner(model, config)
    else:
        learner = FloatLearner(model, row["statistics"], row["momentum"])
    before, start = accuracy(learner, test), time.perf_counter()
    loss = train(learner, images, Schedule(EPOCHS, row["rate"]), row["batch"], seed)
    seconds = time.perf_counter() - start
    return row | {
        "training_loss": round(loss, 4),
        "test_before": before,
        "test_accuracy": accuracy(learner, test),
        "seconds": round(seconds, 2),
    }


def runs(batches: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Return what one network is to be adapted by."""
    return [
        {
            "batch": batch,
            "statistics": kind,
            "rate": rate,
            "precision": precision,
            "momentum": round(max(2.0**-11, 1 - (1 - MOMENTUM) ** (batch / IMAGES_PER_STEP)), 6),
            "seed": seed,
        }
        for batch in batches
        for kind, rate in RATES
        for precision in ("float32", "int8")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 16, 4, 1])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    refuse_on_red("tests/quantized/training/test_running_statistics.py")
    torch.set_num_threads(options.threads)
    data = load_data(options.data)
    rows = []
    for seed in range(options.seeds):
        model = trained(data, options, seed)
        for row in runs(options.batches, seed):
            rows.append(run(data, options, model, row))
            print(rows[-1], flush=True)
    about = {name: getattr(options, name) for name in ("data", "model", "width", "images")}
    print(write("small_batches", [about | row for row in rows]))


if __name__ == "__main__":
    main()
