"""The native kernels as functions of tensors: no autograd, no buffers changed.

Statistics and gradients of parameters are float32, float64 for float64 tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from l1bn.ops import _native
from l1bn.ops._native import Native
from l1bn.ops.cpu_layout import Layout, as_layout, to_layout

__all__ = [
    "ACTIVATIONS",
    "DTYPES",
    "NATIVE",
    "RECOVERY_LIMIT",
    "Backward",
    "Evaluation",
    "Forward",
    "backward",
    "evaluate",
    "forward",
    "update_running",
]

#: The library, or why there is none.
NATIVE: Native | str = _native.load()

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2}

#: x̂ is recovered from y where (|β| + max|residual|) / |γ| is at most this, and σ above its floor,
#: in every channel. y
#: carries a rounding of u·|y|, so x̂ = (y − residual − β)/γ is off by at most about
#: u·(|x̂| + limit): for float32 within the error of the eager formula's own sums, for the 16-bit
#: formats a few roundings of one element, which average out over a channel.
RECOVERY_LIMIT = {0: 16.0, 1: 4.0, 2: 4.0, 3: 16.0}


class Forward(NamedTuple):
    """What a training forward pass returns; ``bits`` is None where x̂ cannot be recovered.

    Shape:
        - mean: :math:`(2, C)`, two parts whose sum is the mean: near a large mean one float32
          cannot tell on which side of it a value lies
    """

    y: Tensor
    mean: Tensor
    scale: Tensor
    bits: Tensor | None
    layout: Layout


def _native_or_raise() -> Native:
    if isinstance(NATIVE, str):
        raise RuntimeError(NATIVE)
    return NATIVE


def _pointer(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def _check(code: int) -> int:
    if code == -2:
        raise MemoryError("the native kernels could not allocate their scratch memory")
    if code < 0:
        raise RuntimeError(f"the native kernels refused the call with code {code}")
    return code


def _accumulate(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _parameter_dtype(weight: Tensor | None, bias: Tensor | None) -> int:
    some = weight if weight is not None else bias
    return 0 if some is None else DTYPES[some.dtype]


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    eps: float,
    want_bits: bool,
) -> Forward:
    """Normalize with the statistics of the batch.

    Args:
        x: input.
        weight: γ.
        bias: β.
        residual: added before the activation.
        activation: code of :data:`ACTIVATIONS`.
        eps: variance floor.
        want_bits: also return the sign bits, if x̂ can be recovered from y.
    """
    native = _native_or_raise()
    x, layout = to_layout(x)
    if residual is not None:
        residual = as_layout(residual, layout)
    y = torch.empty_like(x)
    mean = torch.empty((2, layout.channels), dtype=_accumulate(x.dtype))
    scale = torch.empty(layout.channels, dtype=mean.dtype)
    bits = torch.empty(native.bits_bytes(*layout), dtype=torch.uint8) if want_bits else None
    code = DTYPES[x.dtype]
    bad = native.forward(
        _native.pack_forward(
            *layout,
            code,
            _parameter_dtype(weight, bias),
            activation,
            torch.get_num_threads(),
            eps,
            x.data_ptr(),
            _pointer(residual),
            _pointer(weight),
            _pointer(bias),
            y.data_ptr(),
            mean.data_ptr(),
            scale.data_ptr(),
            _pointer(bits),
            RECOVERY_LIMIT[code],
        )
    )
    if bad:
        _check(bad)
        bits = None
    return Forward(y, mean, scale, bits, layout)


class Backward(NamedTuple):
    """Gradients; None where not wanted."""

    dx: Tensor | None
    dweight: Tensor | None
    dbias: Tensor | None
    dresidual: Tensor | None


def backward(
    grad: Tensor,
    layout: Layout,
    *,
    y: Tensor | None,
    x: Tensor | None,
    residual: Tensor | None,
    bits: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    scale: Tensor,
    activation: int,
    eps: float,
    wanted: tuple[bool, bool, bool],
    frozen: bool = False,
) -> Backward:
    """Compute the gradients of :func:`forward` or, frozen, of :func:`evaluate`.

    Args:
        grad: gradient of the output.
        layout: layout of the forward call.
        y: output, needed with an activation.
        x: input, or None to recover x̂ from ``y``, ``residual`` and ``bits``.
        residual: read only to recover x̂.
        bits: sign bits, read only without ``x``.
        weight: γ.
        bias: β.
        mean: mean of the forward call.
        scale: scale of the forward call.
        activation: code of :data:`ACTIVATIONS`.
        eps: variance floor.
        wanted: whether to return dx, dγ and dβ, d residual.
        frozen: mean and scale are constants.
    """
    native = _native_or_raise()
    grad = as_layout(grad, layout)
    # Kept as they came, which costs no memory of their own: laid out again where they were strided.
    x = None if x is None else as_layout(x, layout)
    residual = None if residual is None else as_layout(residual, layout)
    dx = torch.empty_like(grad) if wanted[0] else None
    dweight = dbias = None
    if wanted[1]:
        dweight, dbias = torch.empty_like(scale), torch.empty_like(scale)
    # Without an activation the residual's gradient is the output's.
    dresidual = torch.empty_like(grad) if wanted[2] and activation else None
    _check(
        native.backward(
            _native.pack_backward(
                *layout,
                DTYPES[grad.dtype],
                _parameter_dtype(weight, bias),
                activation,
                torch.get_num_threads(),
                eps,
                grad.data_ptr(),
                _pointer(y),
                _pointer(x),
                _pointer(residual),
                _pointer(bits),
                _pointer(weight),
                _pointer(bias),
                mean.data_ptr(),
                scale.data_ptr(),
                _pointer(dx),
                _pointer(dresidual),
                _pointer(dweight),
                _pointer(dbias),
                frozen,
            )
        )
    )
    if wanted[2] and not activation:
        dresidual = grad
    return Backward(dx, dweight, dbias, dresidual)


class Evaluation(NamedTuple):
    """What an evaluation returns; ``recoverable`` tells whether x̂ can be read back from y."""

    y: Tensor
    mean: Tensor
    scale: Tensor
    recoverable: bool
    layout: Layout


def evaluate(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    eps: float,
) -> Evaluation:
    """Normalize with running statistics; ``mean`` and ``scale`` are what :func:`backward` needs."""
    native = _native_or_raise()
    x, layout = to_layout(x)
    if residual is not None:
        residual = as_layout(residual, layout)
    y = torch.empty_like(x)
    mean = torch.empty((2, layout.channels), dtype=_accumulate(x.dtype))
    scale = torch.empty(layout.channels, dtype=mean.dtype)
    code = DTYPES[x.dtype]
    bad = native.evaluate(
        _native.pack_evaluate(
            *layout,
            code,
            _parameter_dtype(weight, bias),
            activation,
            torch.get_num_threads(),
            eps,
            x.data_ptr(),
            _pointer(residual),
            _pointer(weight),
            _pointer(bias),
            running_mean.data_ptr(),
            running_var.data_ptr(),
            DTYPES[running_mean.dtype],
            y.data_ptr(),
            mean.data_ptr(),
            scale.data_ptr(),
            RECOVERY_LIMIT[code],
        )
    )
    return Evaluation(y, mean, scale, not _check(bad), layout)


def update_running(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    scale: Tensor,
    count: int,
    momentum: float,
    eps: float,
) -> None:
    """Move running statistics in place towards those of a batch, see :mod:`l1bn.ops.running`."""
    _check(
        _native_or_raise().update(
            _native.pack_update(
                running_mean.data_ptr(),
                running_var.data_ptr(),
                DTYPES[running_mean.dtype],
                mean.data_ptr(),
                scale.data_ptr(),
                DTYPES[scale.dtype],
                scale.numel(),
                count,
                momentum,
                eps,
            )
        )
    )
