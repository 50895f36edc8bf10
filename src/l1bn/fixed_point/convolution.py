"""Convolution and its two gradients on integers: products summed exactly, in 64 bits.

The judge of the 8-bit convolutions; a linear layer is a 1x1 convolution of 1x1 images.
"""

from __future__ import annotations

import numpy as np

from l1bn.fixed_point.formats import IntArray


def _pad(x: IntArray, padding: int) -> IntArray:
    return np.pad(x.astype(np.int64), ((0, 0), (0, 0), (padding, padding), (padding, padding)))


def _window(tap: int, size: int, stride: int) -> slice:
    return slice(tap, tap + (size - 1) * stride + 1, stride)


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Height or width of the output [pixels]."""
    return (size + 2 * padding - kernel) // stride + 1


def conv2d(x: IntArray, weight: IntArray, stride: int = 1, padding: int = 0) -> IntArray:
    """Cross-correlation, as ``torch.nn.functional.conv2d`` computes it.

    Shape:
        - x: ``(N, C, H, W)``
        - weight: ``(K, C, kh, kw)``
        - Output: ``(N, K, H', W')``
    """
    kh, kw = weight.shape[2:]
    height, width = (
        output_size(s, k, stride, padding) for s, k in zip(x.shape[2:], (kh, kw), strict=True)
    )
    padded, wide = _pad(x, padding), weight.astype(np.int64)
    out = np.zeros((len(x), len(weight), height, width), dtype=np.int64)
    for i in range(kh):
        for j in range(kw):
            part = padded[:, :, _window(i, height, stride), _window(j, width, stride)]
            out += np.einsum("nchw,kc->nkhw", part, wide[:, :, i, j])
    return out


def conv2d_input_gradient(
    error: IntArray, weight: IntArray, size: tuple[int, int], stride: int = 1, padding: int = 0
) -> IntArray:
    """Gradient of ``conv2d`` in its input.

    Args:
        error: Gradient in the output.
        weight: The weights of the forward pass.
        size: Height and width of the input [pixels].
        stride: Stride of the forward pass.
        padding: Padding of the forward pass.

    Shape:
        - error: ``(N, K, H', W')``
        - weight: ``(K, C, kh, kw)``
        - Output: ``(N, C, H, W)``
    """
    kh, kw = weight.shape[2:]
    height, width = error.shape[2:]
    padded = np.zeros(
        (len(error), weight.shape[1], size[0] + 2 * padding, size[1] + 2 * padding), dtype=np.int64
    )
    wide, e = weight.astype(np.int64), error.astype(np.int64)
    for i in range(kh):
        for j in range(kw):
            part = np.einsum("nkhw,kc->nchw", e, wide[:, :, i, j])
            padded[:, :, _window(i, height, stride), _window(j, width, stride)] += part
    return padded[:, :, padding : padding + size[0], padding : padding + size[1]]


def conv2d_weight_gradient(
    x: IntArray, error: IntArray, kernel: tuple[int, int], stride: int = 1, padding: int = 0
) -> IntArray:
    """Gradient of ``conv2d`` in its weights.

    Shape:
        - x: ``(N, C, H, W)``
        - error: ``(N, K, H', W')``
        - Output: ``(K, C, kh, kw)``, ``kernel`` being ``(kh, kw)``
    """
    height, width = error.shape[2:]
    padded, e = _pad(x, padding), error.astype(np.int64)
    out = np.zeros((error.shape[1], x.shape[1], *kernel), dtype=np.int64)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            part = padded[:, :, _window(i, height, stride), _window(j, width, stride)]
            out[:, :, i, j] = np.einsum("nkhw,nchw->kc", e, part)
    return out
