"""Max and average pooling in integers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from l1bn.fixed_point.scaling import peak_shift
from l1bn.quantized.kernels.interface import channels_last
from l1bn.quantized.layers.base import Clock, IntegerLayer
from l1bn.quantized.scaling import OutputScale
from l1bn.quantized.tensor import QTensor

INVERSE_BITS = 22
_LARGEST_AVERAGE = 1 << 18
"""Pixels beyond which 1/pixels has fewer than five significant bits."""
_ERROR = 2


class AveragePoolLayer(IntegerLayer):
    """The mean of each window, or of each channel: (N, C, H, W) to (N, C, H / k, W / k).

    Args:
        name: Name of the float layer.
        site: Number in the network.
        clock: The network's.
        kernel: Window and stride [pixels]; None takes all pixels of a channel. Rows and columns
            that fill no window are left out.
    """

    _size: torch.Size | None = None

    def __init__(self, name: str, site: int, clock: Clock, kernel: int | None = None) -> None:
        super().__init__(name, site, clock)
        self.kernel = kernel
        self.scaling = OutputScale()

    def window(self, size: torch.Size) -> torch.Size:
        """Return height and width of a window in an image of this size [pixels]."""
        return size if self.kernel is None else torch.Size((self.kernel, self.kernel))

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        check_images(self.name, shapes[0])
        window = self.window(shapes[0][2:])
        size = [n // k for n, k in zip(shapes[0][2:], window, strict=True)]
        check_window(self.name, shapes[0], window, 0)
        if window.numel() > _LARGEST_AVERAGE:
            raise ValueError(
                f"{self.name}: expected averages of at most {_LARGEST_AVERAGE} pixels, whose "
                f"reciprocal has {INVERSE_BITS} bits, got {window.numel()}; pool in two steps"
            )
        return torch.Size((*shapes[0][:2], *size))

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the means, with as many fraction bits as 8 bits hold."""
        x = inputs[0]
        if self.training:
            self._size = x.shape[2:]
        window = self.window(x.shape[2:])
        sums = _windows(x.values, window).sum((3, 5))
        wide = channels_last((sums * inverse_pixels(window)).int())
        exponent = x.exponent - INVERSE_BITS
        shift = self.scaling.shift(int(wide.abs().max()), exponent, self.training)
        values = self.clock.kernels(wide).rescale(wide, shift, 8, None)
        return QTensor(values, exponent + shift)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error, divided evenly over the pixels of each window."""
        if self._size is None:
            raise RuntimeError(f"{self.name}: expected a forward pass in training mode first")
        window = self.window(self._size)
        wide = error.values.int() * inverse_pixels(window)
        bits = self.clock.config.error_bits
        shift = peak_shift(int(wide.abs().max()), bits)
        values = self.clock.kernels(wide).rescale(wide, shift, bits, self.noise(_ERROR))
        exponent = error.exponent - INVERSE_BITS + shift
        spread = torch.zeros(
            (*values.shape[:2], *self._size), dtype=torch.int8, device=values.device
        )
        _windows(spread, window).copy_(values[:, :, :, None, :, None])
        return (QTensor(channels_last(spread), exponent),)


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


def check_window(name: str, shape: torch.Size, window: Sequence[int], padding: int) -> None:
    """Refuse images that no window fits.

    Raises:
        ValueError: It names the layer.
    """
    if any(n + 2 * padding < k for n, k in zip(shape[2:], window, strict=True)):
        raise ValueError(
            f"{name}: expected images of at least {window[0]} x {window[1]} pixels with their "
            f"padding of {padding} on each side, got {tuple(shape)}; use larger images"
        )


def _windows(x: Tensor, window: torch.Size) -> Tensor:
    """Return a view (N, C, H', kh, W', kw) of the whole windows."""
    height, width = (n // k for n, k in zip(x.shape[2:], window, strict=True))
    whole = x[:, :, : height * window[0], : width * window[1]]
    return whole.unflatten(3, (width, window[1])).unflatten(2, (height, window[0]))


def inverse_pixels(size: torch.Size) -> int:
    """1/pixels with ``INVERSE_BITS`` fraction bits."""
    pixels = size.numel()
    return ((2 << INVERSE_BITS) + pixels) // (2 * pixels)


class MaxPoolLayer(IntegerLayer):
    """The largest value of each window.

    Args:
        name: Name of the float layer.
        site: Number in the network.
        clock: The network's.
        kernel: Window [pixels].
        stride: Stride [pixels].
        padding: Padding on each side [pixels].
    """

    _place: Tensor | None = None
    _shape: torch.Size | None = None

    def __init__(
        self, name: str, site: int, clock: Clock, kernel: int, stride: int, padding: int
    ) -> None:
        super().__init__(name, site, clock)
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        check_images(self.name, shapes[0])
        check_window(self.name, shapes[0], (self.kernel, self.kernel), self.padding)
        size = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in shapes[0][2:])
        return torch.Size((*shapes[0][:2], *size))

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the maxima; ties go to the first, in the order of rows."""
        x = inputs[0]
        taps = self._taps(_padded(x.values, self.padding))
        best, place = taps[0], torch.zeros_like(taps[0])
        for index, tap in enumerate(taps[1:], start=1):
            larger = tap > best
            best = torch.where(larger, tap, best)
            place = torch.where(larger, index, place)
        if self.training:
            self._place, self._shape = place.to(torch.int8), x.shape
        return QTensor(channels_last(best), x.exponent)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error at the maxima; where windows overlap, errors add."""
        place, shape = self._place, self._shape
        if place is None or shape is None:
            raise RuntimeError(f"{self.name}: expected a forward pass in training mode first")
        disjoint = self.stride >= self.kernel
        p = self.padding
        padded = (shape[0], shape[1], shape[2] + 2 * p, shape[3] + 2 * p)
        dtype = torch.int8 if disjoint else torch.int32
        total = torch.zeros(padded, dtype=dtype, device=place.device)
        total = total.contiguous(memory_format=torch.channels_last)
        for index, window in enumerate(self._taps(total)):
            window += torch.where(place == index, error.values, 0)
        inner = channels_last(total[:, :, p : p + shape[2], p : p + shape[3]])
        if disjoint:
            return (QTensor(inner, error.exponent),)
        bits = self.clock.config.error_bits
        shift = peak_shift(int(inner.abs().max()), bits)
        values = self.clock.kernels(inner).rescale(inner, shift, bits, self.noise(_ERROR))
        return (QTensor(values, error.exponent + shift),)

    def _taps(self, padded: Tensor) -> list[Tensor]:
        """Return views of the padded tensor, one per place in the window."""
        k, s = self.kernel, self.stride
        height, width = ((n - k) // s + 1 for n in padded.shape[2:])
        return [
            padded[:, :, i : i + (height - 1) * s + 1 : s, j : j + (width - 1) * s + 1 : s]
            for i in range(k)
            for j in range(k)
        ]

    def forget(self) -> None:
        """Drop what the forward pass kept."""
        self._place = None

    def kept(self) -> list[Tensor]:
        """Return the tensors that the forward pass kept."""
        return [] if self._place is None else [self._place]


def _padded(x: Tensor, padding: int) -> Tensor:
    return F.pad(x, (padding,) * 4, value=-128) if padding else x
