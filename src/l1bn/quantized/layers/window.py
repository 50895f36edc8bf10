"""Where the windows of a pooling lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Windows over an image; each pair is of height and width [pixels].

    Attributes:
        kernel: Size.
        stride: Step from one to the next.
        padding: What is added on both sides.
        dilation: Step from pixel to pixel within one.
        ceil: Whether a window may begin within the image and end beyond its padding.
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil: bool = False

    @property
    def disjoint(self) -> bool:
        """Whether no pixel lies in two windows."""
        return all(s >= n for s, n in zip(self.stride, self.span, strict=True))

    @property
    def span(self) -> Pair:
        """Pixels from the first to the last of one."""
        height, width = ((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        return height, width

    def output(self, size: Sequence[int]) -> Pair:
        """Return how many windows an image of this size has."""
        height, width = (self._count(axis, n) for axis, n in enumerate(size))
        return height, width

    def _count(self, axis: int, n: int) -> int:
        stride, padding = self.stride[axis], self.padding[axis]
        room = n + 2 * padding - self.span[axis]
        count = (room + stride - 1 if self.ceil else room) // stride + 1
        # As torch has it: a window that would begin in the padding at the end is left out.
        return count - 1 if self.ceil and (count - 1) * stride >= n + padding else count

    def pad(self, x: Tensor, value: int) -> Tensor:
        """Return the image with what its windows reach beyond it."""
        borders = self.borders(x.shape[2:])
        return F.pad(x, borders, value=value) if any(borders) else x

    def borders(self, size: Sequence[int]) -> tuple[int, int, int, int]:
        """Return what is added left, right, above and below [pixels]."""
        ends = [
            max((count - 1) * stride + span - n - padding, padding)
            for count, stride, span, n, padding in zip(
                self.output(size), self.stride, self.span, size, self.padding, strict=True
            )
        ]
        return self.padding[1], ends[1], self.padding[0], ends[0]

    def padded_size(self, size: Sequence[int]) -> Pair:
        """Return height and width with what is added."""
        left, right, top, bottom = self.borders(size)
        return size[0] + top + bottom, size[1] + left + right

    def inner(self, padded: Tensor, size: Sequence[int]) -> Tensor:
        """Return the image within what was added to it."""
        left, _, top, _ = self.borders(size)
        return padded[:, :, top : top + size[0], left : left + size[1]]

    def taps(self, padded: Tensor, size: Sequence[int]) -> list[Tensor]:
        """Return views of the padded image, one for each place in a window."""
        ranges = [
            [slice(i * d, i * d + (count - 1) * stride + 1, stride) for i in range(kernel)]
            for kernel, d, stride, count in zip(
                self.kernel, self.dilation, self.stride, self.output(size), strict=True
            )
        ]
        return [padded[:, :, rows, columns] for rows, columns in product(*ranges)]

    def check(self, name: str, shape: torch.Size) -> torch.Size:
        """Return the shape of the output.

        Raises:
            ValueError: If the input is no batch of images, or no window fits; it names the layer.
        """
        check_images(name, shape)
        if any(n + 2 * p < k for n, p, k in zip(shape[2:], self.padding, self.span, strict=True)):
            raise ValueError(
                f"{name}: expected images of at least {self.span[0]} x {self.span[1]} pixels with "
                f"their padding of {self.padding} on each side, got {tuple(shape)}; use larger "
                "images"
            )
        return torch.Size((*shape[:2], *self.output(shape[2:])))


def check_images(name: str, shape: torch.Size) -> None:
    """Refuse what is no batch of images.

    Raises:
        ValueError: It names the layer.
    """
    if len(shape) != 4:
        raise ValueError(
            f"{name}: expected input of shape (N, C, H, W), got {tuple(shape)}; pool before "
            "flattening"
        )
