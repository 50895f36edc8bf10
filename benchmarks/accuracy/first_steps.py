"""What a network pretrained with BN does in its first steps with L1BN, calibrated and not.

    python -m benchmarks.accuracy.first_steps --out results/first-steps runs/first-l2-seed*

Takes finished runs of ``l1bn train --norm l2`` (or of `norm_variants relu-first`) and continues
each three times on the same batches: as it is, with the same weights in a network with L1BN, and
with that calibrated (`calibrate_`). Writes, for each of the three,

* the ratio of standard to mean absolute deviation over sqrt(pi/2), of the channels that the
  pretrained network's norms see: 1 is Gaussian; quantiles over the channels;
* how far the logits of a batch in training mode are from those of BN, as a share of their size;
* the training loss of the first batch, and the mean over the first twenty steps.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import mean

import numpy as np
import torch

import l1bn
from benchmarks.accuracy.norm_variants import CALIBRATION_BATCHES, VARIANT, VariantTrainer
from benchmarks.accuracy.tables import write_csv
from l1bn.environment import describe_environment
from l1bn.recipes.classification.measure import deviation_ratios
from l1bn.recipes.classification.run import load_recipe_data
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.files.checkpoint import CHECKPOINT, load_checkpoint
from l1bn.recipes.machine.threads import thread_count

STEPS = 20
ARMS = ("BN", "L1BN", "L1BN, calibrated")


def load(folder: Path, arm: str, options: argparse.Namespace) -> Trainer:
    """Return a trainer with the arm's norm that stands where a finished run with BN ended."""
    saved = load_checkpoint(folder / CHECKPOINT)
    config = TrainConfig.from_saved(saved["config"])
    if config.norm != "l2" or config.precision == "int8":
        raise SystemExit(f"{folder}: expected a float run with --norm l2")
    config = replace(
        config,
        norm="l2" if arm == "BN" else "l1",
        lr=options.lr,
        data=options.data or config.data,
    )
    data = load_recipe_data(config)
    variant = folder / VARIANT
    if variant.exists():
        trainer: Trainer = VariantTrainer(config, data, variant.read_text().strip())
    else:
        trainer = Trainer(config, data)
    trainer.model.load_state_dict(saved["model"])
    if arm == "L1BN, calibrated":
        # Batches of another epoch than those that are trained on.
        batches = islice(trainer.plan(1).batches(trainer.train_split), CALIBRATION_BATCHES)
        shown = (trainer.preprocess(images) for images, _ in batches)
        l1bn.calibrate_(trainer.model, shown, progress=False)
    return trainer


@torch.no_grad()
def logits(trainer: Trainer, images: torch.Tensor) -> torch.Tensor:
    """Return the outputs of a copy of the network in training mode."""
    return copy.deepcopy(trainer.model).train()(trainer.preprocess(images))


def losses(trainer: Trainer) -> list[float]:
    trainer.model.train()
    batches = islice(trainer.plan(0).batches(trainer.train_split), STEPS)
    return [float(trainer.step(*batch)[0]) for batch in batches]


def rows(folder: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    """Return a row for each arm."""
    found: list[dict[str, object]] = []
    for arm in ARMS:
        trainer = load(folder, arm, options)
        if arm == "BN":
            ratios = np.array([r for v in deviation_ratios(trainer).values() for r in v])
            low, middle, high = np.quantile(ratios / math.sqrt(math.pi / 2), [0.05, 0.5, 0.95])
            images = next(iter(trainer.plan(0).batches(trainer.train_split)))[0]
            before = logits(trainer, images)
        moved = (logits(trainer, images) - before).norm() / before.norm()
        curve = losses(trainer)
        row = {
            "run": f"{folder.parent.name}/{folder.name}",
            "norm": arm,
            "ratio_5%": round(float(low), 3),
            "ratio_median": round(float(middle), 3),
            "ratio_95%": round(float(high), 3),
            "logits_moved": round(float(moved), 4),
            "first_loss": round(curve[0], 4),
            f"loss_of_{STEPS}": round(mean(curve), 4),
        }
        print(row, flush=True)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--data", help="other than that of the runs")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with thread_count(options.threads):
        table = [row for folder in options.runs for row in rows(folder, options)]
        environment = describe_environment()
    names = " ".join(f"runs/{folder.parent.name}/{folder.name}" for folder in options.runs)
    content = {
        "command": f"python -m benchmarks.accuracy.first_steps --out {options.out} {names}",
        "lr": options.lr,
        "environment": environment,
        "rows": table,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    write_csv(options.out / "first_steps.csv", table)


if __name__ == "__main__":
    main()
