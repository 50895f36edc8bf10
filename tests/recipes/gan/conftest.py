"""A GAN so small that a run takes a second."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from l1bn.recipes.gan.config import GanConfig


@pytest.fixture
def gan(tmp_path: pathlib.Path) -> Callable[..., GanConfig]:
    """A configuration for the tiny set of images; keywords change it."""

    def make(**changes: object) -> GanConfig:
        values: dict[str, object] = {
            "width": 0.0625,
            "latent": 8,
            "steps": 6,
            "batch_size": 12,
            "sample_every": 3,
            "log_every": 1,
            "tensorboard": False,
            "progress": False,
            "out": tmp_path / "run",
        }
        return GanConfig(**{**values, **changes})  # type: ignore[arg-type]

    return make
