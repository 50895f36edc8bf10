"""How sure a GAN's Fréchet distance is: measured again with other noise, and with batch statistics.

    python -m benchmarks.gan.distance runs/cifar10-dcgan --classifier last.pt

Takes the finished runs of ``l1bn gan-compare`` and measures each generator several times, in
evaluation mode (running statistics, as the curves do) and in training mode (those of its batch of
500). Prints a line for each run and writes them as ``distances.csv``: a difference between norms
that is larger than these lies in the trained generators, not in the measurement.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.accuracy.tables import write_csv
from l1bn.recipes.files.checkpoint import CHECKPOINT, load_checkpoint
from l1bn.recipes.gan.config import GanConfig
from l1bn.recipes.gan.distance import ReferenceDistance, distance_to_test
from l1bn.recipes.gan.images import to_bytes
from l1bn.recipes.gan.noise import stream
from l1bn.recipes.gan.trainer import GanTrainer, load_gan_data

BATCH, REPEATS = 500, 3
OTHER_SEED = 1000
"""Runs are seeded from 0 on."""


@torch.no_grad()
def generated(generator: nn.Module, latent: int, count: int, repeat: int) -> Iterator[Tensor]:
    """Yield as many images, in batches, from noise that the runs did not draw."""
    for first in range(0, count, BATCH):
        random = stream(OTHER_SEED + repeat, "distance", first)
        yield to_bytes(generator(torch.randn(min(BATCH, count - first), latent, generator=random)))


def distances(trainer: GanTrainer, reference: ReferenceDistance, training: bool) -> list[float]:
    """Measure a copy of the generator: training mode moves its running statistics."""
    generator = copy.deepcopy(trainer.adversaries.generator).train(training)
    latent = trainer.adversaries.settings.latent
    return [
        reference.measure(generated(generator, latent, reference.images, repeat))
        for repeat in range(REPEATS)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", type=Path, help="folder of l1bn gan-compare")
    parser.add_argument("--data", help="other than that of the runs")
    parser.add_argument("--classifier", type=Path, help="other than that of the runs")
    parser.add_argument("--out", type=Path, help="folder of distances.csv [default: the folder]")
    options = parser.parse_args()
    rows, reference = [], None
    folders = sorted(p.parent for p in options.comparison.glob(f"runs/*/{CHECKPOINT}"))
    if not folders:
        raise SystemExit(f"{options.comparison} has no runs of l1bn gan-compare")
    for folder in tqdm(folders, desc="generators"):
        saved = load_checkpoint(folder / CHECKPOINT, "gan")
        config = GanConfig.from_saved(saved["config"])
        given = {k: v for k in ("data", "classifier") if (v := getattr(options, k)) is not None}
        config = replace(config, device="cpu", **given)
        if reference is None:
            if config.classifier is None:
                raise SystemExit("the runs have no classifier: name one with --classifier")
            data = load_gan_data(config)
            reference = distance_to_test(
                config.classifier, data, config.distance_images, torch.device("cpu")
            )
        trainer = GanTrainer(config, data)
        trainer.restore(saved)
        row = {"norm": config.norm, "seed": config.seed, "step": saved["state"]["step"]}
        for name, training in (("running", False), ("batch", True)):
            found = distances(trainer, reference, training)
            row |= {name: round(mean(found), 3), f"{name}_std": round(stdev(found), 3)}
        rows.append(row)
        tqdm.write(str(row))
    out = (options.out or options.comparison) / "distances.csv"
    write_csv(out, rows)


if __name__ == "__main__":
    main()
