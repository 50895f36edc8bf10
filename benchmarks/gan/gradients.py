"""Whether a generator sees what L1BN assumes: ratios of deviations, gradients of both norms.

    python -m benchmarks.gan.gradients runs/cifar10-wgan-gp

Takes the finished runs of ``l1bn gan-compare`` and gives one batch of noise to each generator, once
with L1BN and once with BN, at the same weights and with the same critic. Prints a line for each run
and writes them as ``gradients.csv``:

* the least and the greatest ratio of standard to mean absolute deviation over sqrt(pi/2) among the
  channels that the generator's norms see: 1 is Gaussian;
* the least cosine between both norms' gradients among the generator's weights, and over all;
* how long the gradient is with L1BN, over that with BN.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from benchmarks.accuracy.tables import write_csv
from l1bn.recipes.classification.measure import channel_ratios
from l1bn.recipes.files.checkpoint import CHECKPOINT, load_checkpoint
from l1bn.recipes.gan.config import GanConfig
from l1bn.recipes.gan.losses import LOSSES
from l1bn.recipes.gan.models import Generator, build_gan
from l1bn.recipes.gan.noise import stream

OTHER_SEED = 1000
"""Runs are seeded from 0 on."""


def with_norm(saved: dict[str, Any], norm: str) -> tuple[GanConfig, Generator, torch.nn.Module]:
    """Return a run's configuration and networks, with this norm."""
    config = replace(GanConfig.from_saved(saved["config"]), norm=norm)
    shape = saved["shape"]
    generator, critic = build_gan(config, shape["channels"], shape["image_size"])
    generator.load_state_dict(saved["generator"])
    critic.load_state_dict(saved["critic"])
    return config, generator.train(), critic.train()


def gradients(saved: dict[str, Any], norm: str, noise: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the generator's convolutions."""
    config, generator, critic = with_norm(saved, norm)
    LOSSES[config.model].generator(critic(generator(noise))).backward()
    return {
        n: p.grad for n, p in generator.named_parameters() if p.grad is not None and p.dim() > 1
    }


def measure(folder: Path) -> dict[str, object]:
    """Return the row of one run."""
    saved = load_checkpoint(folder / CHECKPOINT, "gan")
    config, generator, _ = with_norm(saved, saved["config"]["norm"])
    settings = config.settings()
    random = stream(OTHER_SEED, "train")
    noise = torch.randn(settings.batch_size, settings.latent, generator=random)
    found = [r for v in channel_ratios(generator, noise).values() for r in v if math.isfinite(r)]
    ratios = [r / math.sqrt(math.pi / 2) for r in found]
    first, second = (gradients(saved, norm, noise) for norm in ("l1", "l2"))
    flat = [torch.cat([g.flatten() for g in side.values()]) for side in (first, second)]
    cosines = [
        float(cosine_similarity(first[n].flatten(), second[n].flatten(), dim=0)) for n in first
    ]
    return {
        "norm": config.norm,
        "seed": config.seed,
        "step": saved["state"]["step"],
        "ratio_least": round(min(ratios), 3),
        "ratio_greatest": round(max(ratios), 3),
        "cosine_least": round(min(cosines), 4),
        "cosine": round(float(cosine_similarity(*flat, dim=0)), 4),
        "length_ratio": round(float(flat[0].norm() / flat[1].norm()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", type=Path, help="folder of l1bn gan-compare")
    parser.add_argument("--out", type=Path, help="folder of gradients.csv [default: the folder]")
    options = parser.parse_args()
    folders = sorted(p.parent for p in options.comparison.glob(f"runs/*/{CHECKPOINT}"))
    if not folders:
        raise SystemExit(f"{options.comparison} has no runs of l1bn gan-compare")
    rows = [measure(folder) for folder in folders]
    for row in rows:
        print(row)
    write_csv((options.out or options.comparison) / "gradients.csv", rows)


if __name__ == "__main__":
    main()
