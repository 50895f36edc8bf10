"""Rescaling, scaled addition and SGD in integers: the element-wise kernels of 8-bit training."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from l1bn.ops.int8.checks import bits_of, like, require, require_dense, rows_of, shift_of
from l1bn.ops.native.library import INT8_NORM

if TYPE_CHECKING:
    from l1bn.fixed_point.formats import Noise
    from l1bn.fixed_point.update import SgdStep

_MASK = (1 << 64) - 1


_pack_rescale = struct.Struct("7qq2Qq").pack
_pack_peak = struct.Struct("4q").pack
_pack_add = struct.Struct("7qq2Qq").pack
_pack_sgd = struct.Struct("14qq2Q").pack


def rounding(noise: Noise | None) -> tuple[int, int, int]:
    """The three fields of an argument block that say how a last bit is found."""
    return (0, 0, 0) if noise is None else (1, noise.seed & _MASK, noise.stream & _MASK)


def rescale(
    value: Tensor, shift: int | Tensor, bits: int = 8, noise: Noise | None = None
) -> Tensor:
    """Shift int32 numbers right with rounding and saturate: ``l1bn.fixed_point.scaling.rescale``.

    Args:
        value: Accumulators, int32.
        shift: Right shift, 0 to 31, an int32 tensor of one per channel or a number.
        bits: Bits of the result [bit].
        noise: Random bits of the rounding; the counter is the place in memory.

    Shape:
        - value, Output: ``(N, C, H, W)`` or ``(N, C)``
        - shift: ``(C,)``

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If a shape, a layout or a number is wrong.
    """
    shape = rows_of("value", value, torch.int32)
    pair = shift_of(shift, shape[1])
    out = torch.empty_like(value, dtype=torch.int8)
    how = bits_of(bits), *rounding(noise)
    block = _pack_rescale(*shape, value.data_ptr(), *pair, *how, out.data_ptr())
    INT8_NORM.call("rescale", block)
    return out


def peak(value: Tensor) -> int:
    """Largest magnitude of an int32 tensor, 0 of an empty one.

    Shape:
        - value: ``(N, C, H, W)`` or ``(N, C)``
    """
    shape = rows_of("value", value, torch.int32)
    return INT8_NORM.call("peak", _pack_peak(*shape, value.data_ptr()))


def add_scaled(
    a: Tensor,
    a_exponent: int,
    b: Tensor,
    b_exponent: int,
    bits: int = 8,
    noise: Noise | None = None,
) -> tuple[Tensor, int]:
    """Sum of two scaled int8 tensors, and its exponent: ``l1bn.fixed_point.addition.add_scaled``.

    Shape:
        - a, b, Output: the same, ``(N, C, H, W)`` or ``(N, C)``

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If a shape, a layout or a number is wrong.
    """
    require("a", a, torch.int8)
    require_dense("a", a)
    out = torch.empty_like(a)
    block = _pack_add(
        a.numel(),
        torch.get_num_threads(),
        a.data_ptr(),
        like("b", b, a, torch.int8),
        a_exponent,
        b_exponent,
        bits_of(bits),
        *rounding(noise),
        out.data_ptr(),
    )
    return out, INT8_NORM.call("add", block)


_GRADIENTS = {torch.int8: 0, torch.int32: 1, torch.int64: 2}


def sgd_step(
    weight: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    step: SgdStep,
    *,
    exponent: int,
    momentum_exponent: int,
    gradient_exponent: int,
    bits: int = 16,
    noise: Noise | None = None,
) -> int:
    """One step of SGD in place: ``l1bn.fixed_point.update.sgd_step``.

    Args:
        weight: Master weights, int16, changed.
        momentum: Momentum, int16, changed.
        gradient: Gradient, int8, int32 or int64.
        step: Learning rate, momentum and decay.
        exponent: Exponent of the weights, -48 to 14.
        momentum_exponent: Exponent of the momentum.
        gradient_exponent: Exponent of the gradient.
        bits: Bits of weights and momentum [bit].
        noise: Random bits of the weights; the momentum takes the next stream.

    Returns:
        The new exponent of the momentum.

    Shape:
        - weight, momentum, gradient: the same, channels_last where 4-dimensional

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If a shape, a layout or a number is wrong.
    """
    require("weight", weight, torch.int16)
    require_dense("weight", weight)
    if not -48 <= exponent <= 14:
        raise ValueError(f"exponent: expected -48 to 14, got {exponent}; rescale the weights")
    block = _pack_sgd(
        weight.numel(),
        torch.get_num_threads(),
        weight.data_ptr(),
        like("momentum", momentum, weight, torch.int16),
        exponent,
        momentum_exponent,
        bits_of(bits, 16),
        like("gradient", gradient, weight, *_GRADIENTS),
        _GRADIENTS[gradient.dtype],
        gradient_exponent,
        step.rate,
        step.momentum,
        step.decay,
        int(step.nesterov),
        *rounding(noise),
    )
    return INT8_NORM.call("sgd", block)
