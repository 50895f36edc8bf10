"""What a device runs: a list of steps on tensors that lie in one arena."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

INPUT = -1
"""The images, where a node's number names what it takes."""
NONE = 0xFFFF
"""No tensor, parameter or table entry."""
EVERY = 0xFFFFFFFF
"""The set of all blocks, see ``l1bn.device.program.blocks``."""


class Kind(IntEnum):
    """``enum l1bn_kind`` of csrc/device/l1bn_device.h."""

    PRODUCT = 0
    NORM = 1
    ADD = 2
    RELU = 3
    HARDSWISH = 4
    FLATTEN = 5
    AVERAGE = 6
    MAXIMUM = 7
    DROPOUT = 8
    UPSAMPLE = 9
    PAD = 10
    COARSEST = 11
    PLACE = 12
    LOSS = 13
    PRODUCT_ERROR = 14
    PRODUCT_UPDATE = 15
    NORM_ERROR = 16
    RELU_ERROR = 17
    HARDSWISH_ERROR = 18
    FLATTEN_ERROR = 19
    AVERAGE_ERROR = 20
    MAXIMUM_ERROR = 21
    DROPOUT_ERROR = 22
    UPSAMPLE_ERROR = 23
    PAD_ERROR = 24
    PART = 25
    COPY = 26
    JOIN = 27


class Mode(IntEnum):
    """``enum l1bn_mode``: where a norm takes its statistics from."""

    FOLDED = 0
    RUNNING = 1
    BATCH = 2
    MOVING = 3


class Flag(IntFlag):
    """``enum l1bn_flag``."""

    RELU = 1
    WIDE = 2
    SHARED_SHIFT = 4
    DISJOINT = 8
    POW2 = 16
    TRAINS = 32
    TWICE = 64
    SIX = 128


@dataclass(eq=False)
class Buffer:
    """Bytes of the arena.

    Attributes:
        size: What one use takes [bytes]; of a batch, all images.
    """

    size: int


@dataclass(eq=False)
class Tensor:
    """A tensor: a buffer and an exponent of its own. The caller's images have no buffer.

    Attributes:
        buffer: Where it lies.
        image: Bytes of one image, where a step runs image by image [bytes].
    """

    buffer: Buffer | None
    image: int = 0


@dataclass(frozen=True)
class Window:
    """Sizes of a layer's input and output, and the window between them [pixels, channels]."""

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    kernel_height: int = 1
    kernel_width: int = 1
    stride_y: int = 1
    stride_x: int = 1
    top: int = 0
    left: int = 0
    dilation_y: int = 1
    dilation_x: int = 1
    groups: int = 1

    @property
    def taps(self) -> int:
        """Weights of an output channel."""
        return self.kernel_height * self.kernel_width * (self.channels // self.groups)


@dataclass(eq=False)
class Op:
    """One step; the fields are those of ``l1bn_op``.

    Attributes:
        kind: What to do.
        layer: Name of the layer it belongs to.
        window: Its sizes.
        macs: Multiplications of 8-bit numbers that it takes, computed once.
        blocks: Set of the blocks for whose sake it is computed.
    """

    kind: Kind
    layer: str
    window: Window
    mode: Mode = Mode.FOLDED
    flags: Flag = field(default_factory=lambda: Flag(0))
    site: int = 0
    a: Tensor | None = None
    b: Tensor | None = None
    out: Tensor | None = None
    x: Tensor | None = None
    y: Tensor | None = None
    channels: Tensor | None = None
    scratch: Tensor | None = None
    sums: Tensor | None = None
    norm: int = NONE
    weight: int = NONE
    bias: int = NONE
    scale: int = NONE
    value: int = 0
    macs: int = 0
    blocks: int = EVERY

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors it touches, by field."""
        names = ("a", "b", "out", "x", "y", "channels", "scratch", "sums")
        return {n: t for n in names if (t := getattr(self, n)) is not None}

    def buffers(self) -> list[Buffer]:
        """Return the buffers it touches, each once."""
        found = {id(t.buffer): t.buffer for t in self.tensors().values() if t.buffer is not None}
        return list(found.values())
