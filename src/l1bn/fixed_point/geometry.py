"""Where the windows of a convolution lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]


class Geometry(NamedTuple):
    """Strides, padding, dilation and groups; each pair is of rows and columns [pixels].

    Attributes:
        stride: Step from one window to the next.
        padding: Zeros above, below, left and right.
        dilation: Step from pixel to pixel within a window.
        groups: Parts of the channels, and of the outputs, which see each other only.
    """

    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @classmethod
    def of(
        cls,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Geometry:
        """Take one number for both directions; a padding may have one, two or four."""
        sides = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        if len(sides) == 2:
            sides = (sides[0], sides[0], sides[1], sides[1])
        top, bottom, left, right = sides
        return cls(_pair(stride), (top, bottom, left, right), _pair(dilation), groups)

    def span(self, kernel: Sequence[int]) -> Pair:
        """Return height and width from the first pixel of a window to the last."""
        height, width = ((k - 1) * d + 1 for k, d in zip(kernel, self.dilation, strict=True))
        return height, width

    def padded(self, size: Sequence[int]) -> Pair:
        """Return height and width of an image with its padding."""
        top, bottom, left, right = self.padding
        return size[0] + top + bottom, size[1] + left + right

    def output(self, size: Sequence[int], kernel: Sequence[int]) -> Pair:
        """Return height and width of the output; below 1 where no window fits."""
        height, width = (
            (n - span) // stride + 1
            for n, span, stride in zip(
                self.padded(size), self.span(kernel), self.stride, strict=True
            )
        )
        return height, width

    def windows(self, tap: Sequence[int], output: Sequence[int]) -> tuple[slice, slice]:
        """Return the rows and columns of a padded image that one place of the windows sees."""
        rows, columns = (
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, self.dilation, output, self.stride, strict=True)
        )
        return rows, columns


def _pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
