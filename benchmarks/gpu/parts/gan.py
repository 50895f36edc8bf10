"""Training steps of DCGAN and WGAN-GP at full width, with BatchNorm and with L1BN."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.scale import Gan, Run
from benchmarks.gpu.timing import Rows, environment, in_turn, spread


def steps_of(gan: Gan, device: str) -> dict[str, Callable[[], object]]:
    """A step of the generator after those of its critic, for either norm, on drawn images."""
    import torch

    from l1bn.recipes.data import ImageSet, Split
    from l1bn.recipes.gan.adversaries import Adversaries
    from l1bn.recipes.gan.config import GanConfig

    drawn = torch.Generator().manual_seed(0)
    shape = (4 * gan.batch, 3, gan.size, gan.size)
    images = torch.randint(256, shape, generator=drawn, dtype=torch.uint8)
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    data = ImageSet("drawn", split, split, ("image",))

    def stepping(norm: Any) -> Callable[[], object]:
        config = GanConfig(
            model=gan.model, norm=norm, width=gan.width, batch_size=gan.batch,
            image_size=gan.size, device=device, progress=False,
        )  # fmt: skip
        adversaries, number = Adversaries(config.filled(), data), 0

        def step() -> None:
            nonlocal number
            adversaries.step(number)
            number += 1

        return step

    return {"BN": stepping("l2"), "L1BN": stepping("l1")}


def measure_gan(run: Run) -> None:
    """Time both models, and take the memory that a step needs at most."""
    import torch

    scale = run.scale
    rows = Rows(run.out / "gan.csv", environment())
    for gan in scale.gans:
        steps = steps_of(gan, scale.device)
        peaks = {}
        for variant, step in steps.items():
            step()
            if scale.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
                step()
                peaks[variant] = (torch.cuda.max_memory_allocated() - held) / 2**20
        times = in_turn(steps, scale.rounds, scale.device)
        base = statistics.median(times["BN"])
        for variant, samples in times.items():
            found = spread(samples)
            rows.add(
                model=gan.model, batch=gan.batch, size=gan.size, width=gan.width, variant=variant,
                **found, times_bn=round(base / found["ms"], 3), peak_mib=peaks.get(variant),
            )  # fmt: skip
