"""Batches of 1 to 64 images: statistics of the batch against running ones, int8 against float32.

    python -m benchmarks.integers.small_batches

Writes ``results/small_batches.csv``, a row per run, and its environment; runs of some batches or
rates replace their rows. Every run sees the same images in the same order and steps after 64 of
them: a batch of 4 adds up the gradients of 16 backward passes. ``momentum`` is that of 64 images,
spread over the batches that make them. The network was trained in float32 on upright digits and
adapts to mirrored ones, as on a device.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.harness import refuse_on_red, replace_rows
from benchmarks.integers.learners import FloatLearner, Images, IntegerLearner, Learner
from l1bn import L1BatchNorm2d, quantized
from l1bn.recipes.data import ImageSet, load_data
from l1bn.recipes.models import build_model

IMAGES_PER_STEP = 64
BATCHES = (64, 16, 4, 1)
MOMENTUM = 0.1


class Schedule(NamedTuple):
    """Epochs, and the rate from which it falls to 0."""

    epochs: int
    rate: float


FIRST = Schedule(6, 0.1)
EPOCHS = 3
RATES = (("batch", 0.1), ("batch", 0.005), ("running", 0.03), ("running", 0.005))
"""Constants leave out the terms of the gradient that keep a batch's statistics in place, so they
take a lower rate; the batch's statistics at that rate say what it costs."""
K = (math.pi / 2) ** 0.5


class Running:
    """A float L1BN that trains by running statistics: the rule of ``Config(statistics="running")``.

    The layer is trained. It is in evaluation mode, so its statistics are constants; ``move`` comes
    after backward.
    """

    def __init__(self, layer: L1BatchNorm2d, momentum: float) -> None:
        self.layer, self.momentum = layer.eval(), momentum
        self.batches = int(layer.num_batches_tracked)
        self.seen = torch.empty(0)
        layer.register_forward_pre_hook(self._see)

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen = inputs[0].detach()

    def move(self) -> None:
        """Move the statistics toward the batch that was seen."""
        self.batches += 1
        share = max(self.momentum, 1 / self.batches)
        mean, variance, x = self.layer.running_mean, self.layer.running_var, self.seen
        sigma = K * (x - mean.view(1, -1, 1, 1)).abs().mean((0, 2, 3))
        before = (variance + self.layer.eps).sqrt()
        variance.copy_((before + share * (sigma - before)).square() - self.layer.eps)
        mean.lerp_(x.mean((0, 2, 3)), share)


class RunningLearner(FloatLearner):
    """float32 by running statistics."""

    def __init__(self, model: nn.Module, momentum: float) -> None:
        super().__init__(model)
        self.running = [
            Running(norm, momentum) for norm in model.modules() if isinstance(norm, L1BatchNorm2d)
        ]

    def learn(self, x: quantized.QTensor, labels: Tensor, halvings: int = 0) -> float:
        """See ``Learner``."""
        loss = super().learn(x, labels, halvings)
        for running in self.running:
            running.move()
        return loss

    def classes(self, x: quantized.QTensor) -> Tensor:
        """See ``Learner``."""
        found = super().classes(x)
        for running in self.running:
            running.layer.eval()
        return found


def train(learner: Learner, images: Images, schedule: Schedule, batch: int, seed: int) -> float:
    """Learn, and return the mean loss of the last epoch."""
    order, done = torch.Generator().manual_seed(seed), 0
    halvings = (IMAGES_PER_STEP // batch).bit_length() - 1
    losses: list[float] = []
    count = len(images.labels) // IMAGES_PER_STEP * IMAGES_PER_STEP
    steps = schedule.epochs * count // IMAGES_PER_STEP
    for _ in range(schedule.epochs):
        losses = []
        for chosen in torch.randperm(len(images.labels), generator=order)[:count].split(
            IMAGES_PER_STEP
        ):
            for part in chosen.split(batch):
                losses.append(learner.learn(*images.part(part), halvings))
            learner.step(schedule.rate * (1 - done / steps))
            done += 1
    return statistics.fmean(losses)


def batch_learner(model: nn.Module, momentum: float) -> FloatLearner:
    """float32 by the statistics of the batch."""
    for norm in model.modules():
        if isinstance(norm, L1BatchNorm2d):
            norm.momentum = momentum
    return FloatLearner(model)


def trained(data: ImageSet, options: argparse.Namespace, seed: int) -> nn.Module:
    """Return a network that was trained in float32, in batches of 64, on upright images."""
    torch.manual_seed(seed)
    model = build_model(options.model, "l1", data.spec(options.width))
    images = Images(data, data.train.only(images=options.images, seed=seed))
    train(batch_learner(model, MOMENTUM), images, FIRST, IMAGES_PER_STEP, seed)
    return model


def run(
    data: ImageSet, options: argparse.Namespace, model: nn.Module, row: dict[str, Any]
) -> dict[str, Any]:
    """Adapt a copy of a network to mirrored images."""
    model, seed = copy.deepcopy(model).train(), row["seed"]
    split = data.train.only(images=options.images, seed=seed)
    images, test = (Images(data, s, mirror=True) for s in (split, data.test))
    if row["precision"] == "int8":
        config = quantized.Config(statistics=row["statistics"], momentum=row["momentum"], seed=seed)
        learner: Learner = IntegerLearner(model, config)
    else:
        kind = RunningLearner if row["statistics"] == "running" else batch_learner
        learner = kind(model, row["momentum"])
    before, start = test.accuracy(learner), time.perf_counter()
    loss = train(learner, images, Schedule(EPOCHS, row["rate"]), row["batch"], seed)
    seconds = time.perf_counter() - start
    return row | {
        "training_loss": round(loss, 4),
        "test_before": before,
        "test_accuracy": test.accuracy(learner),
        "seconds": round(seconds, 2),
    }


def runs(batches: Sequence[int], rates: Collection[float], seed: int) -> list[dict[str, Any]]:
    """Return what one network is to be adapted by."""
    return [
        {
            "batch": batch,
            "statistics": kind,
            "rate": rate,
            "precision": precision,
            "momentum": round(1 - (1 - MOMENTUM) ** (batch / IMAGES_PER_STEP), 6),
            "seed": seed,
        }
        for batch in batches
        for kind, rate in RATES
        if rate in rates
        for precision in ("float32", "int8")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="*", choices=BATCHES, default=BATCHES)
    rates = sorted({rate for _, rate in RATES})
    parser.add_argument("--rates", type=float, nargs="*", choices=rates, default=rates)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    refuse_on_red("tests/quantized/training/test_running_statistics.py")
    torch.set_num_threads(options.threads)
    data = load_data(options.data)
    rows = []
    for seed in range(options.seeds):
        model = trained(data, options, seed)
        for row in runs(options.batches, options.rates, seed):
            rows.append(run(data, options, model, row))
            print(rows[-1], flush=True)
    about = {name: getattr(options, name) for name in ("data", "model", "width", "images")}
    keys = (*about, "batch", "statistics", "rate", "precision", "seed")
    print(replace_rows("small_batches", [about | row for row in rows], keys))


if __name__ == "__main__":
    main()
