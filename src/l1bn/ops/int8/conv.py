"""Convolutions of 8-bit integers with exact 32-bit results, and both their gradients.

Integers only: there is no rounding, scale or zero point here, and no result depends on the number
of threads or on the instruction set. Tensors are ``torch.int8`` with the shapes of ``F.conv2d``;
``channels_last`` memory is read as it is, other layouts are copied first. A linear layer is a
1 x 1 convolution over images of one pixel: ``conv2d(x[:, :, None, None], w[:, :, None, None])``.

The kernels are ``csrc/int8_conv/kernels.cpp``, their interface is ``csrc/int8_conv/interface.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from l1bn.fixed_point.geometry import Geometry
from l1bn.ops.native.library import INT8_CONV

Steps = int | Sequence[int]

#: Seventeen sizes, then x or e, w or e, the result, and its peak where there is one.
_WITH_PEAK = struct.Struct("21q").pack
_WITHOUT_PEAK = struct.Struct("20q").pack


available, isas, isa, select = (
    INT8_CONV.available,
    INT8_CONV.isas,
    INT8_CONV.isa,
    INT8_CONV.select,
)


def conv2d(
    x: Tensor,
    w: Tensor,
    stride: Steps = 1,
    padding: Steps = 0,
    dilation: Steps = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Convolve, as ``F.conv2d`` without bias does.

    Args:
        x: input, int8.
        w: weight, int8.
        stride: step between output pixels, both ways or down and across [pixels].
        padding: zeros on each side, in rows and columns, or above, below, left and right [pixels].
        dilation: step between pixels of a window, both ways or down and across [pixels].
        groups: parts of the channels and of the outputs, which see each other only.

    Returns:
        The exact sums, int32 in ``channels_last`` memory, and the largest magnitude of each output
        channel, int32. Sums are taken modulo 2^32: keep C / groups * kH * kW below 2^17.

    Shape:
        - x: ``(N, C, H, W)``, N may be 0
        - w: ``(K, C / groups, kH, kW)``
        - Output: ``(N, K, oH, oW)`` and ``(K,)``

    Raises:
        TypeError: a tensor is not int8 on the CPU.
        ValueError: shapes do not fit, or the kernel is larger than the padded input.
    """
    _check("x", x)
    _check("w", w)
    geometry = Geometry.of(stride, padding, dilation, groups)
    if w.shape[1] * groups != x.shape[1]:
        raise ValueError(
            f"expected a weight with the input's {x.shape[1]} channels in {groups} groups, got "
            f"shape {tuple(w.shape)}: a weight is (outputs, channels / groups, height, width)"
        )
    sizes = _sizes(tuple(x.shape), tuple(w.shape), geometry)
    high, wide = geometry.output(x.shape[2:], w.shape[2:])
    y, peak = _empty(x.shape[0], w.shape[0], high, wide), _peak(w.shape[0])
    xs, ws = _nhwc(x), _nhwc(w)
    INT8_CONV.call(
        "forward",
        _WITH_PEAK(*sizes, xs.data_ptr(), ws.data_ptr(), y.data_ptr(), peak.data_ptr()),
    )
    return y, peak


def conv2d_input_gradient(
    e: Tensor,
    w: Tensor,
    input_size: tuple[int, int],
    stride: Steps = 1,
    padding: Steps = 0,
    *,
    dilation: Steps = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Propagate the error of a convolution's output to its input.

    Args:
        e: error of the output, int8.
        w: weight, int8.
        input_size: height and width of the input [pixels].
        stride: of the convolution [pixels].
        padding: of the convolution [pixels].
        dilation: of the convolution [pixels].
        groups: of the convolution.

    Returns:
        The exact gradient, int32 in ``channels_last`` memory, and the largest magnitude of each
        input channel, int32. Sums are taken modulo 2^32: keep K / groups * kH * kW below 2^17.

    Shape:
        - e: ``(N, K, oH, oW)``, N may be 0
        - w: ``(K, C / groups, kH, kW)``
        - Output: ``(N, C, *input_size)`` and ``(C,)``

    Raises:
        TypeError: a tensor is not int8 on the CPU.
        ValueError: shapes do not fit, or the kernel is larger than the padded input.
    """
    _check("e", e)
    _check("w", w)
    geometry = Geometry.of(stride, padding, dilation, groups)
    count, channels = e.shape[0], w.shape[1] * groups
    sizes = _sizes((count, channels, *input_size), tuple(w.shape), geometry)
    _check_error(e, (count, w.shape[0], *geometry.output(input_size, w.shape[2:])))
    dx, peak = _empty(count, channels, *input_size), _peak(channels)
    es, ws = _nhwc(e), _nhwc(w)
    INT8_CONV.call(
        "input_gradient",
        _WITH_PEAK(*sizes, es.data_ptr(), ws.data_ptr(), dx.data_ptr(), peak.data_ptr()),
    )
    return dx, peak


def conv2d_weight_gradient(
    x: Tensor,
    e: Tensor,
    kernel_size: tuple[int, int],
    stride: Steps = 1,
    padding: Steps = 0,
    *,
    dilation: Steps = 1,
    groups: int = 1,
) -> Tensor:
    """Gradient of a convolution's weight.

    Args:
        x: input, int8.
        e: error of the output, int8.
        kernel_size: height and width of the weight [pixels].
        stride: of the convolution [pixels].
        padding: of the convolution [pixels].
        dilation: of the convolution [pixels].
        groups: of the convolution.

    Returns:
        The exact gradient, int32 in ``channels_last`` memory. Sums are taken modulo 2^32: keep
        N * oH * oW below 2^17 for data that may all be -128, and the true sums below 2^31 anyway.

    Shape:
        - x: ``(N, C, H, W)``, N may be 0
        - e: ``(N, K, oH, oW)``
        - Output: ``(K, C / groups, *kernel_size)``

    Raises:
        TypeError: a tensor is not int8 on the CPU.
        ValueError: shapes do not fit, or the kernel is larger than the padded input.
    """
    _check("x", x)
    _check("e", e)
    geometry = Geometry.of(stride, padding, dilation, groups)
    outputs, channels = e.shape[1], x.shape[1] // groups
    sizes = _sizes(tuple(x.shape), (outputs, channels, *kernel_size), geometry)
    _check_error(e, (x.shape[0], outputs, *geometry.output(x.shape[2:], kernel_size)))
    dw = _empty(outputs, channels, *kernel_size)
    xs, es = _nhwc(x), _nhwc(e)
    INT8_CONV.call(
        "weight_gradient", _WITHOUT_PEAK(*sizes, xs.data_ptr(), es.data_ptr(), dw.data_ptr())
    )
    return dw


_Sizes = tuple[int, ...]


def _check(name: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.int8 or tensor.device.type != "cpu":
        raise TypeError(
            f"expected {name} as torch.int8 on the CPU, got {tensor.dtype} on {tensor.device}: "
            "these kernels compute with 8-bit integers only"
        )
    if tensor.dim() != 4:
        raise ValueError(
            f"expected {name} with 4 dimensions, got shape {tuple(tensor.shape)}: "
            "give a linear layer's tensors two more of size 1"
        )


def _check_error(e: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(e.shape) != expected:
        raise ValueError(
            f"expected e in the output's shape {expected}, got {tuple(e.shape)}: "
            "it belongs to another input size, stride or padding"
        )


def _sizes(x_shape: tuple[int, ...], w_shape: tuple[int, ...], geometry: Geometry) -> _Sizes:
    """The seventeen sizes of a problem, checked."""
    count, channels, high, wide = x_shape
    outputs, _, kernel_high, kernel_wide = w_shape
    if min(channels, high, wide, outputs, *w_shape[1:]) < 1:
        raise ValueError(
            f"expected sizes of at least 1, got input {x_shape} and weight {w_shape}: "
            "only the number of images may be 0"
        )
    stride, padding, dilation, groups = geometry
    if min(*stride, *dilation) < 1 or min(padding) < 0:
        raise ValueError(
            f"expected stride >= 1, dilation >= 1 and padding >= 0, got stride {stride}, dilation "
            f"{dilation}, padding {padding}"
        )
    if groups < 1 or channels % groups or outputs % groups:
        raise ValueError(
            f"expected groups that divide {channels} channels and {outputs} outputs, got {groups}"
        )
    span, padded = geometry.span(w_shape[2:]), geometry.padded((high, wide))
    if padded[0] < span[0] or padded[1] < span[1]:
        raise ValueError(
            f"expected a kernel within the padded input ({padded[0]} x {padded[1]}), got "
            f"{span[0]} x {span[1]}: pad more"
        )
    return (
        *(count, high, wide, channels, outputs, kernel_high, kernel_wide),
        *(*stride, *padding, *dilation, groups),
        torch.get_num_threads(),
    )


def _nhwc(tensor: Tensor) -> Tensor:
    """The tensor with its channels innermost; strides of sizes 1 do not mislead this."""
    return tensor.permute(0, 2, 3, 1).contiguous()


def _empty(count: int, channels: int, high: int, wide: int) -> Tensor:
    return torch.empty((count, high, wide, channels), dtype=torch.int32).permute(0, 3, 1, 2)


def _peak(channels: int) -> Tensor:
    return torch.empty(channels, dtype=torch.int32)
