"""How much of a weight gradient's noise comes from 8-bit rounding, layer by layer.

    python -m benchmarks.accuracy.gradient_noise runs/int8 --data ../data/cifar10 --out noise.csv

Takes a checkpoint of ``l1bn train --precision int8``, computes the gradients of several batches
with several seeds of the stochastic rounding, and writes for every weight tensor the variance that
rounding adds over the variance between batches. Below 0.1 rounding hardly shows: a batch of 128
images is noisier by itself.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from l1bn.recipes.classification.integer import IntegerTrainer
from l1bn.recipes.classification.run import load_recipe_data
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.files.checkpoint import CHECKPOINT, load_checkpoint
from l1bn.recipes.machine.threads import thread_count

BATCHES, ROUNDINGS = 8, 3


def load(folder: Path, data: str) -> IntegerTrainer:
    """Return a trainer with the network of a checkpoint, in training mode."""
    saved = load_checkpoint(folder / CHECKPOINT)
    if saved["config"].get("precision") != "int8":
        raise SystemExit(f"{folder}: expected a run with --precision int8, got float")
    config = TrainConfig.from_saved(saved["config"])
    config = dataclasses.replace(config, data=data, weights=None)
    trainer = IntegerTrainer(config, load_recipe_data(config))
    trainer.restore(saved)
    trainer.model.train()
    return trainer


def gradients(trainer: IntegerTrainer, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the weight gradients of one batch, with fresh random bits."""
    trainer.model.zero_grad()  # gradients of several batches would add up
    trainer.model.clock.advance()
    found, _ = trainer._forward(images, labels)
    trainer.model.backward(found.error)
    return {
        name: parameter.gradient.real().double()
        for name, parameter in trainer.model.named_modules()
        if getattr(parameter, "decays", False) and parameter.trains
    }


def noise_share(samples: Tensor) -> float:
    """Return the variance of rounding over that between batches.

    Shape:
        - samples: (batches, roundings, weights)
    """
    rounding = samples.var(1).mean(0).sum()
    between = samples.mean(1).var(0).sum() - rounding / samples.shape[1]
    return float(rounding / between)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of an int8 run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    options = parser.parse_args()
    with thread_count(options.threads):
        trainer = load(options.run, options.data)
        batches = islice(trainer.plan(0).batches(trainer.train_split), BATCHES)
        samples = [[gradients(trainer, *batch) for _ in range(ROUNDINGS)] for batch in batches]
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["weight", "count", "rounding_over_batches"])
        for name in samples[0][0]:
            stack = torch.stack([torch.stack([g[name].flatten() for g in row]) for row in samples])
            row = (name, stack.shape[2], round(noise_share(stack), 4))
            writer.writerow(row)
            print(*row)


if __name__ == "__main__":
    main()
