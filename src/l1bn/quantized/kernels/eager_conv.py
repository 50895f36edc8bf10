"""Convolutions of 8-bit integers in plain PyTorch, as products of matrices.

Groups of one channel go tap by tap instead: their matrices would have one column.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from l1bn.fixed_point.geometry import Geometry, Pair
from l1bn.quantized.kernels.matmul import int_matmul


def convolve(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Return the sums, int32.

    Shape:
        - x: ``(N, C, H, W)``, int8
        - weight: ``(K, C / groups, kh, kw)``, int8
        - Output: ``(N, K, H', W')`` in channels-last memory
    """
    kernel = (weight.shape[2], weight.shape[3])
    size = geometry.output(x.shape[2:], kernel)
    if _single(weight, geometry):
        multiple = len(weight) // geometry.groups
        wide = _pad(x, geometry).int().repeat_interleave(multiple, 1)
        parts = [
            wide[:, :, rows, columns] * weight[:, 0, i, j].int().view(-1, 1, 1)
            for (i, j), (rows, columns) in _taps(kernel, size, geometry)
        ]
        return _last(torch.stack(parts).sum(0, dtype=torch.int32))
    pairs = zip(x.chunk(geometry.groups, 1), weight.chunk(geometry.groups), strict=True)
    return _last(torch.cat([_convolve(a, b, geometry) for a, b in pairs], 1))


def _convolve(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    kernel = (weight.shape[2], weight.shape[3])
    flat = weight.permute(2, 3, 1, 0).reshape(-1, len(weight))
    acc = int_matmul(patches(x, kernel, geometry), flat.contiguous())
    size = geometry.output(x.shape[2:], kernel)
    return acc.view(len(x), *size, len(weight)).permute(0, 3, 1, 2)


def spread(error: Tensor, weight: Tensor, size: Pair, geometry: Geometry) -> Tensor:
    """Return the gradient in the input, int32.

    Shape:
        - error: ``(N, K, H', W')``, int8
        - weight: ``(K, C / groups, kh, kw)``, int8
        - Output: ``(N, C, *size)`` in channels-last memory
    """
    kernel, groups = (weight.shape[2], weight.shape[3]), geometry.groups
    channels = weight.shape[1] * groups
    padded = geometry.padded(size)
    acc = error.new_zeros((len(error), channels, *padded), dtype=torch.int32)
    for (i, j), (rows, columns) in _taps(kernel, error.shape[2:], geometry):
        acc[:, :, rows, columns] += _products(error, weight[:, :, i, j], geometry)
    top, _, left, _ = geometry.padding
    return _last(acc[:, :, top : top + size[0], left : left + size[1]])


def _products(error: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """What one tap adds to each input pixel that it meets."""
    n, outputs, height, width = error.shape
    if weight.shape[1] == 1 and geometry.groups > 1:
        wide = error.int() * weight[:, 0].int().view(-1, 1, 1)
        return wide.unflatten(1, (geometry.groups, -1)).sum(2, dtype=torch.int32)
    parts = []
    for e, w in zip(error.chunk(geometry.groups, 1), weight.chunk(geometry.groups), strict=True):
        rows = e.permute(0, 2, 3, 1).reshape(-1, outputs // geometry.groups)
        parts.append(int_matmul(rows, w.contiguous()).view(n, height, width, -1))
    return torch.cat(parts, 3).permute(0, 3, 1, 2)


def correlate(x: Tensor, error: Tensor, kernel: Pair, geometry: Geometry) -> Tensor:
    """Return the gradient in the weights, int32.

    Shape:
        - x: ``(N, C, H, W)``, int8
        - error: ``(N, K, H', W')``, int8
        - Output: ``(K, C / groups, *kernel)``
    """
    groups, outputs = geometry.groups, error.shape[1]
    if groups > 1 and x.shape[1] == groups:
        wide = _pad(x, geometry).int().repeat_interleave(outputs // groups, 1)
        sums = [
            (wide[:, :, rows, columns] * error).sum((0, 2, 3), dtype=torch.int32)
            for _, (rows, columns) in _taps(kernel, error.shape[2:], geometry)
        ]
        return torch.stack(sums, 1).view(outputs, 1, *kernel)
    pairs = zip(x.chunk(groups, 1), error.chunk(groups, 1), strict=True)
    return torch.cat([_correlate(a, e, kernel, geometry) for a, e in pairs])


def _correlate(x: Tensor, error: Tensor, kernel: Pair, geometry: Geometry) -> Tensor:
    k = error.shape[1]
    rows = error.permute(1, 0, 2, 3).reshape(k, -1)
    acc = int_matmul(rows, patches(x, kernel, geometry))
    return acc.view(k, *kernel, x.shape[1]).permute(0, 3, 1, 2)


def patches(x: Tensor, kernel: Pair, geometry: Geometry) -> Tensor:
    """Return what each output pixel of a convolution sees.

    Shape:
        - x: ``(N, C, H, W)``
        - Output: ``(N·H'·W', kh·kw·C)``
    """
    nhwc = _pad(x, geometry).permute(0, 2, 3, 1)
    (high, wide), (down, across) = geometry.span(kernel), geometry.stride
    windows = nhwc.unfold(1, high, down).unfold(2, wide, across)
    windows = windows[..., :: geometry.dilation[0], :: geometry.dilation[1]]
    n, height, width, channels = windows.shape[:4]
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(
        n * height * width, kernel[0] * kernel[1] * channels
    )


def _single(weight: Tensor, geometry: Geometry) -> bool:
    return weight.shape[1] == 1 and geometry.groups > 1


def _pad(x: Tensor, geometry: Geometry) -> Tensor:
    top, bottom, left, right = geometry.padding
    return F.pad(x, (left, right, top, bottom))


def _taps(
    kernel: Pair, output: torch.Size | Pair, geometry: Geometry
) -> Iterator[tuple[Pair, tuple[slice, slice]]]:
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            yield (i, j), geometry.windows((i, j), output)


def _last(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last)
