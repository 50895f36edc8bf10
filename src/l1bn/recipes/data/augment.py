"""Batches of an epoch: order, random crops and mirroring, on whole tensors and from one seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F

from l1bn.recipes.data.images import Split
from l1bn.recipes.machine.processes import Processes

Moments = tuple[torch.Tensor, torch.Tensor]
Mirror = Literal["none", "random", "alternate"]
"""Which training images to mirror: none, about half, or in turn in every other epoch."""
Padding = Literal["zeros", "reflect"]
"""What lies beyond an image's edges: zeros, or the image mirrored there."""

_SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class EpochPlan:
    """Every random choice of one epoch, drawn before its first batch.

    Because nothing is drawn later, an interrupted epoch continues with exactly the batches it would
    have seen.

    Attributes:
        order: (N,) indices of the images.
        corner: (N, 2) top and left of the crop in the padded image, 0 to 2 * padding [pixels].
        mirror: (N,) whether to mirror, of bool.
        padding: Pixels added on each side before the crop.
        edges: What they hold.
        batch_size: Images in a batch; a smaller rest is dropped.
        processes: Those that share each batch; every process draws the same plan and yields its
            own part.
    """

    order: torch.Tensor
    corner: torch.Tensor
    mirror: torch.Tensor
    padding: int
    edges: Padding
    batch_size: int
    processes: Processes = field(default_factory=Processes)

    def __len__(self) -> int:
        return len(self.order) // self.batch_size

    def batches(self, split: Split, first: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield augmented images of uint8 and their labels, from batch ``first`` on."""
        for step in range(first, len(self)):
            own = self.processes.part(self.batch_size)
            part = slice(step * self.batch_size + own.start, step * self.batch_size + own.stop)
            index = self.order[part]
            images = split.images[index]
            if self.padding:
                images = random_crop(images, self.corner[part], self.padding, self.edges)
            mirrored = self.mirror[part].view(-1, 1, 1, 1)
            yield torch.where(mirrored, images.flip(-1), images), split.labels[index]


def plan_epoch(
    size: int,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    padding: int,
    mirror: Mirror,
    edges: Padding = "zeros",
    processes: Processes | None = None,
) -> EpochPlan:
    """Draw the choices of one epoch; the same seed and epoch give the same plan.

    Args:
        size: Images in the split.
        batch_size: Images in a batch; a split smaller than one batch is one batch.
        seed: Seed of the run.
        epoch: Epoch, from 0.
        padding: Pixels added on each side before the crop; 0 for no crop.
        mirror: Mirror no image, each with probability one half, or each in every other epoch: half
            of them in the first, drawn by the seed (Jordan, arXiv:2404.00498).
        edges: What the added pixels hold.
        processes: Those that share each batch; this one alone by default.
    """
    generator = torch.Generator().manual_seed(seed * _SEED_STRIDE + epoch)
    order = torch.randperm(size, generator=generator)
    corner = torch.randint(0, 2 * padding + 1, (size, 2), generator=generator)
    coin = torch.rand(size, generator=generator) < (0.5 if mirror == "random" else 0.0)
    if mirror == "alternate":
        coin = _first_side(size, seed)[order] ^ (epoch % 2 == 1)
    return EpochPlan(
        order=order,
        corner=corner,
        mirror=coin,
        padding=padding,
        edges=edges,
        batch_size=min(batch_size, size),
        processes=processes or Processes(),
    )


def _first_side(size: int, seed: int) -> torch.Tensor:
    """Return for every image of the split whether it is mirrored in the first epoch."""
    generator = torch.Generator().manual_seed(seed * _SEED_STRIDE - 1)  # no epoch has this one
    return torch.rand(size, generator=generator) < 0.5


def random_crop(
    images: torch.Tensor, corner: torch.Tensor, padding: int, edges: Padding = "zeros"
) -> torch.Tensor:
    """Pad and cut each image out at its own corner.

    Args:
        images: (N, C, H, W).
        corner: (N, 2) top and left in the padded image [pixels].
        padding: Pixels added on each side; less than the height and width for "reflect".
        edges: What they hold.

    Returns:
        (N, C, H, W), of the same type.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (padding,) * 4) if edges == "zeros" else _reflected(images, padding)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images)), :, corner[:, 0], corner[:, 1]]


def _reflected(images: torch.Tensor, padding: int) -> torch.Tensor:
    """Pad with the image mirrored at its edge pixels; ``F.pad`` does not for bytes."""
    for dim in (2, 3):
        last = images.shape[dim] - 1
        places = torch.arange(-padding, last + padding + 1).abs()
        images = images.index_select(dim, last - (last - places).abs())
    return images


class Preprocess:
    """Turns uint8 images into normalised floats where the model is.

    Args:
        moments: Mean and standard deviation per colour of the training images [0 to 255].
        device: Where the model is.
        channels_last: Return the memory format in which convolutions are fastest on most devices.
    """

    def __init__(self, moments: Moments, device: torch.device, channels_last: bool) -> None:
        mean, std = moments
        self._mean = mean.view(-1, 1, 1).to(device)
        self._scale = (1.0 / std).view(-1, 1, 1).to(device)
        self._device = device
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return (N, C, H, W) of float32."""
        values = images.to(self._device).float()
        return ((values - self._mean) * self._scale).contiguous(memory_format=self._format)
