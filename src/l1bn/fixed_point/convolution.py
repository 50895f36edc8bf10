"""Convolution and its two gradients on integers: products summed exactly, in 64 bits.

The judge of the 8-bit convolutions; a linear layer is a 1x1 convolution of 1x1 images. Strides,
padding and dilation are one number, or one for rows and one for columns; a padding may have four,
above, below, left and right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from l1bn.fixed_point.formats import IntArray
from l1bn.fixed_point.geometry import Geometry

Steps = int | Sequence[int]


def _pad(x: IntArray, geometry: Geometry) -> IntArray:
    top, bottom, left, right = geometry.padding
    return np.pad(x.astype(np.int64), ((0, 0), (0, 0), (top, bottom), (left, right)))


def _grouped(values: IntArray, axis: int, groups: int) -> IntArray:
    """Split an axis into groups and what each of them has."""
    shape = (*values.shape[:axis], groups, -1, *values.shape[axis + 1 :])
    return values.astype(np.int64).reshape(shape)


def conv2d(
    x: IntArray,
    weight: IntArray,
    stride: Steps = 1,
    padding: Steps = 0,
    dilation: Steps = 1,
    groups: int = 1,
) -> IntArray:
    """Cross-correlation, as ``torch.nn.functional.conv2d`` computes it.

    Shape:
        - x: ``(N, C, H, W)``
        - weight: ``(K, C / groups, kh, kw)``
        - Output: ``(N, K, H', W')``
    """
    geometry = Geometry.of(stride, padding, dilation, groups)
    kh, kw = weight.shape[2:]
    size = geometry.output(x.shape[2:], (kh, kw))
    padded, wide = _pad(x, geometry), _grouped(weight, 0, groups)
    out = np.zeros((len(x), groups, len(weight) // groups, *size), dtype=np.int64)
    for i in range(kh):
        for j in range(kw):
            rows, columns = geometry.windows((i, j), size)
            part = _grouped(padded[:, :, rows, columns], 1, groups)
            out += np.einsum("ngchw,gkc->ngkhw", part, wide[:, :, :, i, j])
    return out.reshape(len(x), len(weight), *size)


def conv2d_input_gradient(
    error: IntArray,
    weight: IntArray,
    size: tuple[int, int],
    stride: Steps = 1,
    padding: Steps = 0,
    *,
    dilation: Steps = 1,
    groups: int = 1,
) -> IntArray:
    """Gradient of ``conv2d`` in its input.

    Args:
        error: Gradient in the output.
        weight: The weights of the forward pass.
        size: Height and width of the input [pixels].
        stride: Stride of the forward pass.
        padding: Padding of the forward pass.
        dilation: Dilation of the forward pass.
        groups: Groups of the forward pass.

    Shape:
        - error: ``(N, K, H', W')``
        - weight: ``(K, C / groups, kh, kw)``
        - Output: ``(N, C, H, W)``
    """
    geometry = Geometry.of(stride, padding, dilation, groups)
    channels = weight.shape[1] * groups
    padded = np.zeros((len(error), channels, *geometry.padded(size)), dtype=np.int64)
    wide, e = _grouped(weight, 0, groups), _grouped(error, 1, groups)
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            part = np.einsum("ngkhw,gkc->ngchw", e, wide[:, :, :, i, j])
            rows, columns = geometry.windows((i, j), error.shape[2:])
            padded[:, :, rows, columns] += part.reshape(len(error), channels, *error.shape[2:])
    top, _, left, _ = geometry.padding
    return padded[:, :, top : top + size[0], left : left + size[1]]


def conv2d_weight_gradient(
    x: IntArray,
    error: IntArray,
    kernel: tuple[int, int],
    stride: Steps = 1,
    padding: Steps = 0,
    *,
    dilation: Steps = 1,
    groups: int = 1,
) -> IntArray:
    """Gradient of ``conv2d`` in its weights.

    Shape:
        - x: ``(N, C, H, W)``
        - error: ``(N, K, H', W')``
        - Output: ``(K, C / groups, kh, kw)``, ``kernel`` being ``(kh, kw)``
    """
    geometry = Geometry.of(stride, padding, dilation, groups)
    padded, e = _pad(x, geometry), _grouped(error, 1, groups)
    outputs, channels = error.shape[1], x.shape[1] // groups
    out = np.zeros((outputs, channels, *kernel), dtype=np.int64)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows, columns = geometry.windows((i, j), error.shape[2:])
            part = _grouped(padded[:, :, rows, columns], 1, groups)
            found = np.einsum("ngkhw,ngchw->gkc", e, part)
            out[:, :, i, j] = found.reshape(outputs, channels)
    return out
