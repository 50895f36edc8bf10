"""A tiny set of images on which a run takes a second."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest
import torch

from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet, Split

CLASSES = ("dark", "bright", "upright")


def _images(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    images = torch.randint(60, 120, (count, 1, 8, 8), generator=generator)
    images[labels == 1] += 90
    images[labels == 2, :, :, 4:] += 90
    return Split(images.to(torch.uint8), labels)


@pytest.fixture(scope="session")
def tiny() -> ImageSet:
    """Three classes of 8x8 pixels: 72 training and 24 test images."""
    return ImageSet("tiny", _images(72, 0), _images(24, 1), CLASSES, mirror=False)


@pytest.fixture
def recipe(tmp_path: pathlib.Path) -> Callable[..., TrainConfig]:
    """A configuration for the tiny set; keywords change it."""

    def make(**changes: object) -> TrainConfig:
        values: dict[str, object] = {
            "width": 0.25,
            "epochs": 3,
            "batch_size": 24,
            "log_every": 1,
            "tensorboard": False,
            "progress": False,
            "out": tmp_path / "run",
        }
        return TrainConfig(**{**values, **changes})  # type: ignore[arg-type]

    return make
