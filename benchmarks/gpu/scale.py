"""What a full and a tiny run of the GPU benchmark differ in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


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
