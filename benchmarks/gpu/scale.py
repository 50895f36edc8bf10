"""What a full and a tiny run of the GPU benchmark differ in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Schedule:
    """How a network is trained: SGD with Nesterov's momentum, the rate up and down in lines.

    Attributes:
        width: channels of the first layer.
        epochs: passes over the training images.
        batch: images in a batch.
        rate: largest learning rate.
        decay: of the weights.
        smoothing: of the labels.
        most: images of either split at most, None for all.
    """

    width: int = 64
    epochs: int = 10
    batch: int = 512
    rate: float = 0.4
    decay: float = 5e-4
    smoothing: float = 0.1
    most: int | None = None

    def rate_at(self, part: float) -> float:
        """The learning rate after so much of the training, 0 to 1."""
        rise = 0.2
        return self.rate * (part / rise if part < rise else (1 - part) / (1 - rise))


@dataclass(frozen=True)
class Gan:
    """A generator and its critic: model, images in a batch, their height, factor on the widths."""

    model: Literal["dcgan", "wgan-gp"]
    batch: int
    size: int
    width: float


@dataclass(frozen=True)
class Scale:
    """What a full and a tiny run differ in."""

    device: str
    rounds: int
    copy_elements: int
    operators: tuple[tuple[tuple[int, ...], str, bool, bool], ...]
    networks: tuple[tuple[str, int, int], ...]
    compiled: bool
    batches: tuple[tuple[str, int], ...]
    batch_step: int
    memory_mib: int
    seeds: int
    schedule: Schedule
    gans: tuple[Gan, ...]


def _resnet50(batch: int) -> Iterator[tuple[tuple[int, ...], str, bool, bool]]:
    shapes = [(64, 112), (64, 56), (256, 56), (512, 28), (1024, 14), (2048, 7)]
    for channels, size in shapes:
        shape = (batch, channels, size, size)
        residual = channels >= 256
        yield shape, "bfloat16", True, residual
        if batch == 64:
            yield shape, "float32", False, residual


FULL = Scale(
    "cuda",
    30,
    2**28,
    (
        *_resnet50(64),
        *_resnet50(256),
        ((512, 16, 32, 32), "float32", False, True),
        ((512, 64, 8, 8), "float32", False, True),
        ((512, 64, 8, 8), "bfloat16", True, True),
    ),
    (("resnet18", 256, 224), ("resnet50", 256, 224)),
    True,
    (("resnet18", 224), ("resnet50", 224)),
    8,
    16 * 1024,
    5,
    Schedule(),
    (Gan("dcgan", 128, 64, 1.0), Gan("wgan-gp", 64, 64, 1.0)),
)
TINY = Scale(
    "cpu",
    1,
    2**12,
    (((2, 8, 4, 4), "float32", False, True), ((2, 8, 4, 4), "bfloat16", True, False)),
    (("tiny", 2, 32),),
    False,
    (("tiny", 32),),
    2,
    1,
    2,
    Schedule(width=4, epochs=1, batch=64, most=256),
    (Gan("dcgan", 4, 16, 0.125), Gan("wgan-gp", 4, 16, 0.125)),
)


@dataclass(frozen=True)
class Run:
    """What a part is given.

    Attributes:
        scale: full or tiny.
        out: folder of the results.
        ends: when the whole run should end, by ``time.monotonic`` [s].
        images: packed images (`pack.py`), or None.
    """

    scale: Scale
    out: Path
    ends: float
    images: Path | None = None
