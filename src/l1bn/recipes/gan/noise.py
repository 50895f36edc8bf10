"""Every random choice of a GAN run, as a function of the seed and of the step.

Because nothing depends on what was drawn before, a resumed run sees the noise and the images that
an uninterrupted one would have seen.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from l1bn.recipes.data import Split
from l1bn.recipes.data.augment import EpochPlan, plan_epoch

_PURPOSES = {"train": 0, "grid": 1, "distance": 2}


def stream(
    seed: int, purpose: Literal["train", "grid", "distance"], index: int = 0
) -> torch.Generator:
    """Return a source of random numbers that is independent of all others.

    Args:
        seed: Seed of the run.
        purpose: What the numbers are for.
        index: Step, or chunk.
    """
    # Hashed, because torch's CPU generator uses the low 32 bits of its seed only.
    (word,) = np.random.SeedSequence((seed, _PURPOSES[purpose], index)).generate_state(1)
    return torch.Generator().manual_seed(int(word))


class Batches:
    """The training images, epoch after epoch, as one sequence of batches.

    Attributes:
        size: Images in a batch.

    Args:
        split: The images.
        batch_size: Images in a batch; a split smaller than one batch is one batch.
        seed: Decides the order.
    """

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        self._split = split
        self.size = min(batch_size, len(split))
        self._seed = seed
        self._epoch = -1
        self._plan: EpochPlan

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._split) // self.size

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return the images of a batch, (N, C, H, W) of uint8."""
        epoch, position = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            self._plan = plan_epoch(
                len(self._split), self.size, self._seed, epoch, padding=0, mirror="none"
            )
            self._epoch = epoch
        chosen = self._plan.order[position * self.size : (position + 1) * self.size]
        return self._split.images[chosen]
