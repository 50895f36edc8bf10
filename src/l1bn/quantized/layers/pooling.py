"""Max and average pooling in integers."""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.fixed_point.scaling import peak_shift
from l1bn.quantized.kernels.interface import channels_last
from l1bn.quantized.layers.base import Clock, IntegerLayer
from l1bn.quantized.layers.window import Pair, Window, check_images
from l1bn.quantized.scaling import OutputScale
from l1bn.quantized.tensor import QTensor

INVERSE_BITS = 22
_LARGEST_AVERAGE = 1 << 18
"""Pixels beyond which 1/pixels has fewer than five significant bits."""
_ERROR = 2


class AveragePoolLayer(IntegerLayer):
    """The mean of each window; windows touch, and do not overlap.

    Args:
        name: Name of the float layer.
        site: Number in the network.
        clock: The network's.
        kernel: Window and stride [pixels]. Rows and columns that fill no window are left out. None
            takes all pixels of a channel, or as many windows as ``output`` says.
        output: Windows down and across, which divide the image.
    """

    _size: torch.Size | None = None

    def __init__(
        self,
        name: str,
        site: int,
        clock: Clock,
        kernel: Pair | None = None,
        output: Pair = (1, 1),
    ) -> None:
        super().__init__(name, site, clock)
        self.kernel, self.output = kernel, output
        self.scaling = OutputScale()

    def window(self, size: torch.Size) -> torch.Size:
        """Return height and width of a window in an image of this size [pixels]."""
        if self.kernel is not None:
            return torch.Size(self.kernel)
        return torch.Size(n // k for n, k in zip(size, self.output, strict=True))

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        check_images(self.name, shapes[0])
        size = shapes[0][2:]
        if self.kernel is None and any(n % k for n, k in zip(size, self.output, strict=True)):
            raise ValueError(
                f"{self.name}: expected images of a multiple of {self.output} pixels, whose "
                f"windows are of one size, got {tuple(shapes[0])}; choose another output size"
            )
        kernel = self.window(size)
        window = (kernel[0], kernel[1])
        found = Window(window, window).check(self.name, shapes[0])
        check_count(self.name, kernel.numel())
        return found

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the means, with as many fraction bits as 8 bits hold."""
        x = inputs[0]
        if self.training:
            self._size = x.shape[2:]
        window = self.window(x.shape[2:])
        sums = _windows(x.values, window).sum((3, 5))
        wide = channels_last((sums * inverse_count(window.numel())).int())
        return narrow_means(self, self.scaling, wide, x.exponent)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error, divided evenly over the pixels of each window."""
        if self._size is None:
            raise RuntimeError(f"{self.name}: expected a forward pass in training mode first")
        window = self.window(self._size)
        wide = error.values.int() * inverse_count(window.numel())
        found = narrow_error(self, wide, error.exponent - INVERSE_BITS)
        values = found.values
        spread = torch.zeros(
            (*values.shape[:2], *self._size), dtype=torch.int8, device=values.device
        )
        _windows(spread, window).copy_(values[:, :, :, None, :, None])
        return (QTensor(channels_last(spread), found.exponent),)


class OverlappingAveragePoolLayer(IntegerLayer):
    """The mean of each window, where windows overlap or padding counts as zeros.

    Args:
        name: Name of the float layer.
        site: Number in the network.
        clock: The network's.
        window: Where the windows lie.
    """

    _size: torch.Size | None = None

    def __init__(self, name: str, site: int, clock: Clock, window: Window) -> None:
        super().__init__(name, site, clock)
        self.window = window
        self.scaling = OutputScale()
        self.inverse = inverse_count(window.kernel[0] * window.kernel[1])

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        found = self.window.check(self.name, shapes[0])
        check_count(self.name, self.window.kernel[0] * self.window.kernel[1])
        return found

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the means, with as many fraction bits as 8 bits hold."""
        x = inputs[0]
        size = x.shape[2:]
        if self.training:
            self._size = size
        first, *others = self.window.taps(self.window.pad(x.values, 0), size)
        sums = first.int()
        for tap in others:
            sums += tap
        return narrow_means(self, self.scaling, channels_last(sums * self.inverse), x.exponent)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error, divided evenly over the pixels of each window."""
        if self._size is None:
            raise RuntimeError(f"{self.name}: expected a forward pass in training mode first")
        total = spread_taps(self.window, [error.values.int()], self._size)
        # At most as many windows meet in a pixel as one has pixels: the products fit 32 bits.
        return (narrow_error(self, total * self.inverse, error.exponent - INVERSE_BITS),)


class MaxPoolLayer(IntegerLayer):
    """The largest value of each window.

    Args:
        name: Name of the float layer.
        site: Number in the network.
        clock: The network's.
        window: Where the windows lie.
    """

    _place: Tensor | None = None
    _shape: torch.Size | None = None

    def __init__(self, name: str, site: int, clock: Clock, window: Window) -> None:
        super().__init__(name, site, clock)
        self.window = window

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        return self.window.check(self.name, shapes[0])

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the maxima; ties go to the first, in the order of rows."""
        x = inputs[0]
        taps = self.window.taps(self.window.pad(x.values, -128), x.shape[2:])
        best, place = taps[0], torch.zeros_like(taps[0])
        for index, tap in enumerate(taps[1:], start=1):
            # PyTorch has vectors for these of 8 bits, and none for ``where``.
            place = torch.maximum(place, (tap > best).view(torch.int8) * index)
            best = torch.maximum(best, tap)
        if self.training:
            self._place, self._shape = place.to(torch.int8), x.shape
        return QTensor(channels_last(best), x.exponent)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the error at the maxima; where windows overlap, errors add."""
        place, shape = self._place, self._shape
        if place is None or shape is None:
            raise RuntimeError(f"{self.name}: expected a forward pass in training mode first")
        count = self.window.kernel[0] * self.window.kernel[1]
        values = error.values if self.window.disjoint else error.values.int()
        parts = [(place == index).to(values.dtype) * values for index in range(count)]
        total = spread_taps(self.window, parts, shape[2:])
        if self.window.disjoint:
            return (QTensor(total, error.exponent),)
        return (narrow_error(self, total, error.exponent),)

    def forget(self) -> None:
        """Drop what the forward pass kept."""
        self._place = None

    def kept(self) -> list[Tensor]:
        """Return the tensors that the forward pass kept."""
        return [] if self._place is None else [self._place]


def spread_taps(window: Window, parts: list[Tensor], size: torch.Size) -> Tensor:
    """Add errors to the pixels of their windows: a part for each place, or one for all places.

    Shape:
        - parts: ``(N, C, H', W')``
        - Output: ``(N, C, *size)``
    """
    shape = (*parts[0].shape[:2], *window.padded_size(size))
    total = torch.zeros(shape, dtype=parts[0].dtype, device=parts[0].device)
    total = total.contiguous(memory_format=torch.channels_last)
    for index, tap in enumerate(window.taps(total, size)):
        tap += parts[index % len(parts)]
    return channels_last(window.inner(total, size))


def narrow_means(layer: IntegerLayer, scaling: OutputScale, wide: Tensor, exponent: int) -> QTensor:
    """Return 32-bit means in 8 bits, with the exponent that the layer's outputs have."""
    shift = scaling.shift(int(wide.abs().max()), exponent - INVERSE_BITS, layer.training)
    values = layer.clock.kernels(wide).rescale(wide, shift, 8, None)
    return QTensor(values, exponent - INVERSE_BITS + shift)


def narrow_error(layer: IntegerLayer, wide: Tensor, exponent: int) -> QTensor:
    """Return a 32-bit error in as many bits as errors have."""
    bits = layer.config.error_bits
    shift = peak_shift(int(wide.abs().max()), bits)
    values = layer.clock.kernels(wide).rescale(wide, shift, bits, layer.noise(_ERROR))
    return QTensor(values, exponent + shift)


def check_count(name: str, pixels: int) -> None:
    """Refuse averages of more pixels than their reciprocal has bits for.

    Raises:
        ValueError: It names the layer.
    """
    if pixels > _LARGEST_AVERAGE:
        raise ValueError(
            f"{name}: expected averages of at most {_LARGEST_AVERAGE} pixels, whose "
            f"reciprocal has {INVERSE_BITS} bits, got {pixels}; pool in two steps"
        )


def _windows(x: Tensor, window: torch.Size) -> Tensor:
    """Return a view (N, C, H', kh, W', kw) of the whole windows."""
    height, width = (n // k for n, k in zip(x.shape[2:], window, strict=True))
    whole = x[:, :, : height * window[0], : width * window[1]]
    return whole.unflatten(3, (width, window[1])).unflatten(2, (height, window[0]))


def inverse_count(pixels: int) -> int:
    """1/pixels with ``INVERSE_BITS`` fraction bits."""
    return ((2 << INVERSE_BITS) + pixels) // (2 * pixels)
